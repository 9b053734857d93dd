-- Async predictions: jobs of many rows, cut into chunks that workers share. This is the truth about them; what the
-- message broker holds are only hints that a chunk waits, and any of them may be lost or come twice (api/jobs).

CREATE TABLE jobs (
    id                 uuid         PRIMARY KEY,
    created_at         timestamptz  NOT NULL,
    state              text         NOT NULL DEFAULT 'receiving'
        CHECK (state IN ('receiving', 'queued', 'running', 'done', 'failed', 'cancelled')),
    model              text         NOT NULL,
    version            text         NOT NULL,
    priority           smallint     NOT NULL CHECK (priority BETWEEN 0 AND 2),
    request_id         text         NOT NULL,
    idempotency_key    text         UNIQUE,
    request_digest     bytea,
    rows               integer      NOT NULL DEFAULT 0,
    rows_done          integer      NOT NULL DEFAULT 0,
    rows_failed        integer      NOT NULL DEFAULT 0,
    chunks             integer      NOT NULL DEFAULT 0,
    chunks_left        integer      NOT NULL DEFAULT 0,
    chunks_dead        integer      NOT NULL DEFAULT 0,
    started_at         timestamptz,
    progressed_at      timestamptz  NOT NULL DEFAULT now(),
    finished_at        timestamptz,
    callback_url       text,
    callback_state     text         CHECK (callback_state IN ('due', 'delivered', 'given up')),
    callback_due_at    timestamptz,
    callback_attempts  integer      NOT NULL DEFAULT 0
);

COMMENT ON TABLE jobs IS 'Predictions that were asked for with POST /jobs. Kept as long as their predictions.';
COMMENT ON COLUMN jobs.id IS 'UUIDv7. The ids of its rows in `predictions` derive from it: api/jobs/job.py.';
COMMENT ON COLUMN jobs.created_at IS
    'When nginx took the request, to the millisecond; the timestamp of all its rows in `predictions`.';
COMMENT ON COLUMN jobs.state IS
    'receiving: its rows still arrive. queued: accepted, no row answered yet. running. done: every row is answered, or '
    'its model failed on it. failed: chunks of it were given up. cancelled: what was not answered then, never will be.';
COMMENT ON COLUMN jobs.model IS 'Name of the model that answers.';
COMMENT ON COLUMN jobs.version IS 'Its version, chosen when the job was accepted: all rows get the same one.';
COMMENT ON COLUMN jobs.priority IS '2 high, 1 normal, 0 low.';
COMMENT ON COLUMN jobs.request_id IS 'X-Request-Id of the request that made it.';
COMMENT ON COLUMN jobs.idempotency_key IS 'Idempotency-Key of that request: a second request with it gets this job.';
COMMENT ON COLUMN jobs.request_digest IS
    'sha256 of what was asked, body and parameters, to tell a repeated request from another one with the same key.';
COMMENT ON COLUMN jobs.rows IS 'Rows received so far, and from queued on: rows of the job.';
COMMENT ON COLUMN jobs.rows_done IS 'Rows that are settled: in `predictions`, or failed by themselves.';
COMMENT ON COLUMN jobs.rows_failed IS 'Of these, rows on which the model failed; job_chunks.errors says which.';
COMMENT ON COLUMN jobs.chunks IS 'Chunks that its rows were cut into.';
COMMENT ON COLUMN jobs.chunks_left IS 'Chunks that are neither done nor dead.';
COMMENT ON COLUMN jobs.chunks_dead IS 'Chunks that were given up.';
COMMENT ON COLUMN jobs.started_at IS 'When a worker began with its first chunk.';
COMMENT ON COLUMN jobs.progressed_at IS 'When rows last arrived, or were settled.';
COMMENT ON COLUMN jobs.finished_at IS 'When it was done, failed or cancelled.';
COMMENT ON COLUMN jobs.callback_url IS 'Where its end is reported with a signed POST; null: nowhere.';
COMMENT ON COLUMN jobs.callback_state IS 'due: to be delivered. delivered. given up, after too many attempts.';
COMMENT ON COLUMN jobs.callback_due_at IS 'When the next attempt is due, or the one on its way counts as lost.';
COMMENT ON COLUMN jobs.callback_attempts IS 'Attempts so far; job_callbacks has them one by one.';

CREATE INDEX jobs_callbacks_due ON jobs (callback_due_at) WHERE callback_state = 'due';
-- For what is to be tidied: uploads that broke off, jobs older than the log.
CREATE INDEX jobs_state_created ON jobs (state, created_at);

CREATE TABLE job_chunks (
    job_id        uuid         NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number        integer      NOT NULL,
    first_row     integer      NOT NULL,
    rows          integer      NOT NULL,
    priority      smallint     NOT NULL,
    state         text         NOT NULL DEFAULT 'received'
        CHECK (state IN ('received', 'ready', 'published', 'running', 'done', 'dead', 'cancelled')),
    attempt       integer      NOT NULL DEFAULT 0,
    attempts_left integer      NOT NULL,
    turn          timestamptz  NOT NULL DEFAULT now(),
    due_at        timestamptz  NOT NULL DEFAULT now(),
    input         bytea,
    errors        jsonb,
    last_error    text,
    PRIMARY KEY (job_id, number)
);
-- Else each update would compress it anew, or try to.
ALTER TABLE job_chunks ALTER COLUMN input SET STORAGE EXTERNAL;

COMMENT ON TABLE job_chunks IS
    'Rows of jobs, as many as a worker answers in one go. Also the outbox of the broker: what is ready gets published.';
COMMENT ON COLUMN job_chunks.job_id IS 'The job it is a part of.';
COMMENT ON COLUMN job_chunks.number IS 'Its place among the chunks of the job, from 0.';
COMMENT ON COLUMN job_chunks.first_row IS 'Index in the job of its first row, from 0.';
COMMENT ON COLUMN job_chunks.rows IS 'Rows in it.';
COMMENT ON COLUMN job_chunks.priority IS 'Of the job.';
COMMENT ON COLUMN job_chunks.state IS
    'received: the job is not accepted yet. ready: to be published, from due_at on. published: a message of it was '
    'taken by the broker. running: a worker has it. done: its rows are in `predictions`, or in errors. dead: given up '
    'after too many attempts. cancelled.';
COMMENT ON COLUMN job_chunks.attempt IS
    'Counts the times a worker took it, and fences them: only the latest may write its rows.';
COMMENT ON COLUMN job_chunks.attempts_left IS 'How many more times a worker may take it.';
COMMENT ON COLUMN job_chunks.turn IS
    'Its place among all chunks of its priority: a tenth of a second after the one before it in its job. So a job of many '
    'chunks lets smaller ones that come later pass, but not for ever.';
COMMENT ON COLUMN job_chunks.due_at IS
    'ready: not to be published before. published, running: when it counts as lost, and is ready again.';
COMMENT ON COLUMN job_chunks.input IS 'Its rows, packed: api/jobs/packing.py; null once they are settled.';
COMMENT ON COLUMN job_chunks.errors IS 'Rows on which the model failed: a list of {row, type, detail}.';
COMMENT ON COLUMN job_chunks.last_error IS 'Why the last attempt failed.';

-- What is under way, and no more: neither grows with what is done.
CREATE INDEX job_chunks_ready ON job_chunks (priority, turn, job_id, number) WHERE state = 'ready';
CREATE INDEX job_chunks_out ON job_chunks (due_at) WHERE state IN ('published', 'running');
CREATE INDEX job_chunks_dead ON job_chunks (job_id) WHERE state = 'dead';

CREATE TABLE job_callbacks (
    job_id       uuid              NOT NULL REFERENCES jobs ON DELETE CASCADE,
    attempt      integer           NOT NULL,
    attempted_at timestamptz       NOT NULL DEFAULT now(),
    seconds      double precision  NOT NULL,
    status       integer,
    error        text,
    PRIMARY KEY (job_id, attempt)
);

COMMENT ON TABLE job_callbacks IS 'Every attempt to report the end of a job to its callback_url.';
COMMENT ON COLUMN job_callbacks.job_id IS 'The job that ended.';
COMMENT ON COLUMN job_callbacks.attempt IS 'Counted from 1.';
COMMENT ON COLUMN job_callbacks.attempted_at IS 'When it was made.';
COMMENT ON COLUMN job_callbacks.seconds IS 'How long it took.';
COMMENT ON COLUMN job_callbacks.status IS 'HTTP status of the answer; null where there was none.';
COMMENT ON COLUMN job_callbacks.error IS 'Why it was not delivered; null where it was.';
