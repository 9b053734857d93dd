-- The prediction log. Applied once, by whichever worker finds it missing (api/prediction_log/migrations.py).
-- Migrations are append-only: a change is a new file with the next number.

CREATE TABLE predictions (
    id          uuid             NOT NULL,
    timestamp   timestamptz      NOT NULL,
    model       text             NOT NULL,
    version     text             NOT NULL,
    input_data  jsonb            NOT NULL,
    prediction  jsonb            NOT NULL,
    label       text,
    confidence  double precision,
    cache       text             NOT NULL,
    request_id  text             NOT NULL,
    -- The time first: rows arrive in its order, and pages are read in its order. With the id it is also what makes a
    -- row that comes twice, by a retry or from the spool, one row.
    PRIMARY KEY (timestamp, id)
) PARTITION BY RANGE (timestamp);

COMMENT ON TABLE predictions IS
    'Every prediction that was answered, once each. Partitioned by day (UTC); old days are dropped whole.';
COMMENT ON COLUMN predictions.id IS
    'UUIDv7. Its first 48 bits are the timestamp in milliseconds, the rest derives from the request.';
COMMENT ON COLUMN predictions.timestamp IS 'When nginx took the request, to the millisecond.';
COMMENT ON COLUMN predictions.model IS 'Name of the model that answered.';
COMMENT ON COLUMN predictions.version IS 'Version of the model that answered.';
COMMENT ON COLUMN predictions.input_data IS
    'The row as it was sent: nested lists of numbers in the model''s input shape; units are in its manifest.';
COMMENT ON COLUMN predictions.prediction IS
    'Classification: index of the class. Regression: the value, or a list where the model has several outputs.';
COMMENT ON COLUMN predictions.label IS 'Classification: name of the class. Regression: null.';
COMMENT ON COLUMN predictions.confidence IS 'Classification: probability of the class, 0 to 1. Regression: null.';
COMMENT ON COLUMN predictions.cache IS
    'Where the answer came from: local, redis, coalesced (with an equal row in flight) or miss (the model ran).';
COMMENT ON COLUMN predictions.request_id IS 'X-Request-Id of the request: the client''s own, or nginx''s.';

-- For the newest of one model, which need not be among the newest of all. Costs 1.7 us of the 7 us a row takes to insert.
CREATE INDEX predictions_model_timestamp ON predictions (model, timestamp DESC, id DESC);

-- Takes what no day's partition does, so that no row is ever refused: a clock gone wrong, a spool that waited for weeks.
CREATE TABLE predictions_default PARTITION OF predictions DEFAULT;
COMMENT ON TABLE predictions_default IS
    'Rows of days that have no partition. They move when their day gets one; normally there are none.';

-- Both functions wait for a lock no longer than lock_timeout: whoever waits for one makes all behind him wait too, and
-- commits must not wait longer than SHOAL_LOG_COMMIT_TIMEOUT_SECONDS. What failed is tried again a minute later.
CREATE FUNCTION ensure_prediction_partitions(days_ahead integer, retention_days integer) RETURNS SETOF text
    LANGUAGE plpgsql
    SET timezone = 'UTC'
    SET lock_timeout = '500ms'
AS $$
DECLARE
    today date := current_date;
    day date;
    partition text;
    rows text;
    has_rows boolean;
BEGIN
    FOR day IN
        -- Yesterday too: requests of midnight, and clocks that differ.
        SELECT generate_series(today - 1, today + days_ahead, interval '1 day')::date
        UNION
        SELECT DISTINCT timestamp::date FROM predictions_default
        WHERE timestamp >= today - retention_days AND timestamp < today + days_ahead + 1
        ORDER BY 1
    LOOP
        partition := 'predictions_' || to_char(day, 'YYYY_MM_DD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        rows := format('FROM predictions_default WHERE timestamp >= %L AND timestamp < %L', day, day + 1);
        EXECUTE 'SELECT EXISTS (SELECT ' || rows || ')' INTO has_rows;
        IF has_rows THEN
            -- Else a query that has read the list of partitions already would find the moved rows in none of them.
            LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE;
        END IF;
        -- Made apart and then attached, which lets everybody go on; CREATE TABLE ... PARTITION OF would not. While the
        -- default partition is locked, nobody can put a row of this day into it, which would forbid to attach.
        EXECUTE format('CREATE TABLE %I (LIKE predictions INCLUDING ALL)', partition);
        LOCK TABLE predictions_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE 'SELECT EXISTS (SELECT ' || rows || ')' INTO has_rows;
        IF has_rows THEN
            LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE; -- for rows that came in between; mostly it is locked already
            EXECUTE format('WITH moved AS (DELETE %s RETURNING *) INSERT INTO %I SELECT * FROM moved', rows, partition);
        END IF;
        EXECUTE format(
            'ALTER TABLE predictions ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, day, day + 1);
        RETURN NEXT partition;
    END LOOP;
END
$$;
COMMENT ON FUNCTION ensure_prediction_partitions IS
    'Makes the partitions of yesterday to days_ahead from now, and of days whose rows wait in the default partition. '
    'Returns those it made.';

CREATE FUNCTION drop_prediction_partitions(retention_days integer) RETURNS SETOF text
    LANGUAGE plpgsql
    SET timezone = 'UTC'
    SET lock_timeout = '500ms'
AS $$
DECLARE
    oldest date := current_date - retention_days;
    partition text;
BEGIN
    FOR partition IN
        SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
        WHERE inhparent = 'predictions'::regclass AND child.relname ~ '^predictions_\d{4}_\d{2}_\d{2}$'
            AND to_date(right(child.relname, 10), 'YYYY_MM_DD') < oldest
        ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE %I', partition);
        RETURN NEXT partition;
    END LOOP;
    DELETE FROM predictions_default WHERE timestamp < oldest;
END
$$;
COMMENT ON FUNCTION drop_prediction_partitions IS
    'Drops the partitions of days before retention_days ago, today not counted. Returns those it dropped.';

SELECT ensure_prediction_partitions(7, 90);
