-- The prediction log: one row for each row answered, written before the answer leaves.

CREATE TABLE predictions (
    id          uuid             NOT NULL,
    "timestamp" timestamptz      NOT NULL,
    model       text             NOT NULL,
    version     text             NOT NULL,
    input_data  jsonb            NOT NULL,
    prediction  jsonb            NOT NULL,
    label       text,
    confidence  double precision,
    cache       text             NOT NULL,
    request_id  text             NOT NULL,
    -- The key of a partitioned table holds its partition key. An id carries its time, so it is unique by itself.
    PRIMARY KEY ("timestamp", id)
) PARTITION BY RANGE ("timestamp");

COMMENT ON TABLE predictions IS 'Every row answered, exactly once. Partitioned by UTC day; old days are dropped whole.';
COMMENT ON COLUMN predictions.id IS 'UUIDv7 of the time and of nginx''s id of the request: a retried request makes it again.';
COMMENT ON COLUMN predictions."timestamp" IS 'When nginx took the request, to the millisecond.';
COMMENT ON COLUMN predictions.model IS 'Name of the model that answered.';
COMMENT ON COLUMN predictions.version IS 'Its version.';
COMMENT ON COLUMN predictions.input_data IS 'The row as it was sent: nested lists of numbers, in the units of the model''s manifest.';
COMMENT ON COLUMN predictions.prediction IS 'Classification: index of the class. Regression: the value, or a list of values, in the manifest''s units.';
COMMENT ON COLUMN predictions.label IS 'Name of the class; null for a regression.';
COMMENT ON COLUMN predictions.confidence IS 'Probability of the class, 0 to 1; null for a regression.';
COMMENT ON COLUMN predictions.cache IS 'Where the answer came from: local, redis, coalesced (shared with an equal row in flight) or miss (the model ran).';
COMMENT ON COLUMN predictions.request_id IS 'X-Request-Id of the request: the client''s own, or nginx''s.';

-- "The last ones of this model": by time within it. The primary key serves "the last ones of all".
CREATE INDEX predictions_model_version_timestamp ON predictions (model, version, "timestamp" DESC, id DESC);

-- Takes what no day was made for, after a jump of a clock say, so that no answer is ever refused for its date.
CREATE TABLE predictions_default PARTITION OF predictions DEFAULT;

CREATE FUNCTION shoal_make_partition(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'predictions_' || to_char(day, 'YYYYMMDD');
    low timestamptz := day::timestamp AT TIME ZONE 'UTC';
    high timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN;
    END IF;
    -- Made beside and then attached, so that what the default partition holds of this day moves with it.
    EXECUTE format('CREATE TABLE %I (LIKE predictions INCLUDING ALL)', name);
    EXECUTE format(
        'WITH moved AS (DELETE FROM predictions_default WHERE "timestamp" >= %L AND "timestamp" < %L RETURNING *)
         INSERT INTO %I SELECT * FROM moved', low, high, name);
    EXECUTE format('ALTER TABLE predictions ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, low, high);
END $$;
COMMENT ON FUNCTION shoal_make_partition IS 'Makes the partition of a UTC day, unless it is there.';

CREATE FUNCTION shoal_drop_partitions(before date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    name text;
    dropped integer := 0;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'predictions'::regclass AND c.relname ~ '^predictions_\d{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < before
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM predictions_default WHERE "timestamp" < before::timestamp AT TIME ZONE 'UTC';
    RETURN dropped;
END $$;
COMMENT ON FUNCTION shoal_drop_partitions IS 'Drops the days before the given one; returns how many.';
