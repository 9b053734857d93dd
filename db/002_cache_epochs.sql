-- Flushing the response cache. The epoch of a model is part of what its cache keys are made of, so a new epoch leaves
-- every answer before it unreachable, in Redis and in each worker's memory; api/cache/epochs.py follows this table.

CREATE TABLE cache_epochs (
    model    text    NOT NULL,
    version  text    NOT NULL,
    epoch    bigint  NOT NULL,
    PRIMARY KEY (model, version)
);

COMMENT ON TABLE cache_epochs IS
    'When the cached answers of a model were flushed last. A model that is not in here never was. '
    'Not to be written by hand: SELECT flush_cache(''penguins'') tells the workers too.';
COMMENT ON COLUMN cache_epochs.model IS 'Name of the model.';
COMMENT ON COLUMN cache_epochs.version IS 'The version that was flushed; empty where all of them were.';
COMMENT ON COLUMN cache_epochs.epoch IS
    'Microseconds since 1970 at the flush, and above the epoch of every flush before it.';

CREATE FUNCTION flush_cache(model text, version text DEFAULT '') RETURNS bigint
    LANGUAGE plpgsql
AS $$
DECLARE
    -- The clock, and not a count: after a restore from a backup no epoch comes a second time.
    now_or_later bigint := extract(epoch FROM clock_timestamp()) * 1000000;
BEGIN
    -- One after the other, so that epochs become visible in their order. Who only reads does not wait.
    LOCK TABLE cache_epochs IN SHARE ROW EXCLUSIVE MODE;
    SELECT greatest(now_or_later, max(epoch) + 1) INTO now_or_later FROM cache_epochs;
    INSERT INTO cache_epochs VALUES (flush_cache.model, flush_cache.version, now_or_later)
    ON CONFLICT ON CONSTRAINT cache_epochs_pkey DO UPDATE SET epoch = EXCLUDED.epoch;
    NOTIFY shoal_cache_epochs;
    RETURN now_or_later;
END
$$;
COMMENT ON FUNCTION flush_cache IS
    'Leaves all cached answers of the model, or of one version of it, unreachable. Returns the new epoch, which the '
    'workers take within a second.';
