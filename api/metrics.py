"""Every metric of a replica with its unit, labels and buckets, on one screen."""

from __future__ import annotations

import os
from functools import cache

from prometheus_client import Counter, Gauge, Histogram, values

from api.tallies import CounterTally, HistogramTally

# Files in PROMETHEUS_MULTIPROC_DIR are named after the worker's slot, not its pid: the worker that replaces another
# in slot 2 goes on counting in the file of slot 2. So files stay as many as slots, and no counter ever goes back.
# gunicorn.conf.py hands out the slots.
SLOT = "SHOAL_WORKER_SLOT"
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    values.ValueClass = values.MultiProcessValue(  # type: ignore[no-untyped-call]
        lambda: os.environ.get(SLOT, "master")
    )

_REQUEST_SECONDS = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
)
_STAGE_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

# --- requests -------------------------------------------------------------------------------------------------------
REQUESTS = Counter(
    "shoal_requests",
    "Requests answered. outcome: ok, client-left, or the slug of the problem (README, 'Problems').",
    ("route", "status", "outcome"),
)
REQUEST_SECONDS = Histogram(
    "shoal_request_seconds", "From arrival at the replica to the reply.", ("route",), buckets=_REQUEST_SECONDS
)
REQUESTS_IN_FLIGHT = Gauge("shoal_requests_in_flight", "Requests being answered now.", multiprocess_mode="livesum")
STAGE_SECONDS = Histogram(
    "shoal_stage_seconds",
    "Where the time of a prediction goes. stage: proxy (nginx's first byte to the replica), receive (its body), decode,"
    " cache (lookup in Redis), queue (waiting for the model), run (the model), wake (from the answer to its request),"
    " log (waiting for the commit), reply. All but proxy add up to shoal_request_seconds.",
    ("stage",),
    buckets=_STAGE_SECONDS,
)

# --- access ---------------------------------------------------------------------------------------------------------
KEY_REQUESTS = Counter(
    "shoal_key_requests", "Requests by the name of their API key; admin: by the admin token.", ("key", "status")
)
KEYS_UNREADABLE = Gauge(
    "shoal_keys_unreadable",
    "1 while the file of the API keys cannot be read, and the keys are those from before.",
    multiprocess_mode="livemax",
)

# --- predictions ----------------------------------------------------------------------------------------------------
PREDICTIONS = Counter(
    "shoal_predictions",
    "Rows answered. cache: local, redis, coalesced (shared with an identical row in flight, here or in another worker)"
    " or miss (the model ran).",
    ("model", "version", "cache"),
)
PREDICTION_SECONDS = Histogram(
    "shoal_prediction_seconds",
    "A request's time in the predictor: cache, queue, run and log.",
    ("model", "version"),
    buckets=_REQUEST_SECONDS,
)

# --- batching and models --------------------------------------------------------------------------------------------
BATCH_ROWS = Histogram("shoal_batch_rows", "Rows in one run of a model.", ("model", "version"), buckets=_ROWS)
MODEL_RUN_SECONDS = Histogram(
    "shoal_model_run_seconds", "One run of a model, whatever its rows.", ("model", "version"), buckets=_STAGE_SECONDS
)
QUEUED_ROWS = Gauge("shoal_queued_rows", "Rows waiting for a run.", ("model", "version"), multiprocess_mode="livesum")
MODEL_FAILURES = Counter(
    "shoal_model_failures", "Runs that raised or gave no answer, retries row by row included.", ("model", "version")
)
MODEL_INFO = Gauge(
    "shoal_model_info",
    "1 for each model version served.",
    ("model", "version", "digest", "task"),
    multiprocess_mode="livemax",
)
MODEL_QUARANTINED = Gauge(
    "shoal_model_quarantined",
    "1 while a model version is left alone because workers died as they ran it.",
    ("model", "version"),
    multiprocess_mode="livemax",
)
MODELS_REFUSED = Gauge(
    "shoal_models_refused", "Model versions in the repository that were refused at start.", multiprocess_mode="livemax"
)

# --- cache ----------------------------------------------------------------------------------------------------------
CACHE_LOOKUPS = Counter(
    "shoal_cache_lookups",
    "Lookups by tier (local, redis). result: hit, miss, error (refused, or over its time budget), corrupt (a value"
    " that fails its checksum), skipped (breaker open).",
    ("tier", "result"),
)
CACHE_LOCAL_ROWS = Gauge("shoal_cache_local_rows", "Answers in the workers' own memory.", multiprocess_mode="livesum")
CACHE_WRITE_FAILURES = Counter("shoal_cache_write_failures", "Answers that Redis did not take.")
CACHE_CLAIMS = Counter(
    "shoal_cache_claims",
    "Rows of dear models that Redis did not have. result: own (this worker computes it for all), shared (another worker"
    " did), none (Redis failed or took no claim, or the other took too long; computed without).",
    ("result",),
)
CACHE_FLUSHES = Counter("shoal_cache_flushes", "Flushes that were asked for and done.", ("model",))
CACHE_BREAKER_OPEN = Gauge(
    "shoal_cache_breaker_open", "1 while Redis is left alone after failures.", multiprocess_mode="livemax"
)

# --- prediction log -------------------------------------------------------------------------------------------------
LOG_ROWS = Counter("shoal_log_rows", "Rows made durable before their reply. sink: postgres or spool.", ("sink",))
LOG_COMMIT_SECONDS = Histogram(
    "shoal_log_commit_seconds", "One group commit. sink: postgres or spool.", ("sink",), buckets=_STAGE_SECONDS
)
LOG_GROUP_ROWS = Histogram("shoal_log_group_rows", "Rows that shared one commit.", buckets=_ROWS)
LOG_FAILURES = Counter(
    "shoal_log_failures",
    "Commits that failed. sink: postgres (the rows went to the spool) or spool (their requests got a 503).",
    ("sink",),
)
LOG_POSTGRES_UP = Gauge(
    "shoal_log_postgres_up", "1 while the log commits to Postgres, 0 while it spools.", multiprocess_mode="livemin"
)
SPOOL_ROWS = Gauge("shoal_spool_rows", "Rows in the spool, waiting for Postgres.", multiprocess_mode="mostrecent")
SPOOL_REPLAYED_ROWS = Counter("shoal_spool_replayed_rows", "Rows moved from the spool to Postgres.")

# --- jobs: of the workers that answer them ----------------------------------------------------------------------------
JOB_ROWS = Counter("shoal_job_rows", "Rows of jobs settled. outcome: answered, failed (their model did).", ("outcome",))
JOB_CHUNKS = Counter(
    "shoal_job_chunks",
    "Chunks of jobs that were taken. outcome: done, retried (an attempt failed), dead (given up), stale (another worker"
    " had it by then, or it was cancelled), needless (a message of one that was settled, or taken, already).",
    ("outcome",),
)
JOB_CHUNK_SECONDS = Histogram(
    "shoal_job_chunk_seconds",
    "From taking a chunk to its commit.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
JOB_PAUSE_SECONDS = Counter(
    "shoal_job_pause_seconds", "Time that the worker did nothing, to leave it to single predictions."
)
JOB_BACKLOG_CHUNKS = Gauge(
    "shoal_job_backlog_chunks",
    "Chunks of all jobs, the same seen by each worker. state: waiting, running, dead.",
    ("state",),
    multiprocess_mode="livemax",
)
JOB_BACKLOG_ROWS = Gauge(
    "shoal_job_backlog_rows", "Rows in waiting chunks, the same seen by each worker.", multiprocess_mode="livemax"
)
JOB_OLDEST_SECONDS = Gauge(
    "shoal_job_oldest_seconds",
    "Since the unfinished job that stands still for longest got on; 0 without any.",
    multiprocess_mode="livemax",
)
JOB_DEAD_LETTERS = Gauge(
    "shoal_job_dead_letters", "Messages in the broker's dead-letter queue.", multiprocess_mode="livemax"
)
JOB_BROKER_UP = Gauge("shoal_job_broker_up", "1 while the worker has the broker.", multiprocess_mode="livemin")
JOB_CALLBACKS = Counter(
    "shoal_job_callbacks", "Attempts to report a job's end. outcome: delivered, failed, given-up.", ("outcome",)
)

# --- build ----------------------------------------------------------------------------------------------------------
BUILD_INFO = Gauge("shoal_build_info", "1, with the running version.", ("version",), multiprocess_mode="livemax")

# Children whose labels are known now are bound once: a lookup by labels costs as much as the count itself. It also
# puts them at 0 from the start, so that a rate over them is 0 and not absent. Those on the path of a prediction are
# tallied; see tallies.py.
CACHE_LOCAL_HITS = CounterTally(CACHE_LOOKUPS.labels("local", "hit"))
CACHE_LOCAL_MISSES = CounterTally(CACHE_LOOKUPS.labels("local", "miss"))
CACHE_REDIS_HITS = CounterTally(CACHE_LOOKUPS.labels("redis", "hit"))
CACHE_REDIS_MISSES = CounterTally(CACHE_LOOKUPS.labels("redis", "miss"))
CACHE_CLAIMS_OWN = CounterTally(CACHE_CLAIMS.labels("own"))
CACHE_CLAIMS_SHARED = CounterTally(CACHE_CLAIMS.labels("shared"))
CACHE_CLAIMS_NONE = CounterTally(CACHE_CLAIMS.labels("none"))
CACHE_ERRORS = CACHE_LOOKUPS.labels("redis", "error")
CACHE_CORRUPT = CACHE_LOOKUPS.labels("redis", "corrupt")
CACHE_SKIPPED = CACHE_LOOKUPS.labels("redis", "skipped")

STAGE_PROXY = HistogramTally(STAGE_SECONDS.labels("proxy"))
STAGE_RECEIVE = HistogramTally(STAGE_SECONDS.labels("receive"))
STAGE_DECODE = HistogramTally(STAGE_SECONDS.labels("decode"))
STAGE_CACHE = HistogramTally(STAGE_SECONDS.labels("cache"))
STAGE_QUEUE = HistogramTally(STAGE_SECONDS.labels("queue"))
STAGE_RUN = HistogramTally(STAGE_SECONDS.labels("run"))
STAGE_WAKE = HistogramTally(STAGE_SECONDS.labels("wake"))
STAGE_LOG = HistogramTally(STAGE_SECONDS.labels("log"))
STAGE_REPLY = HistogramTally(STAGE_SECONDS.labels("reply"))
LOG_GROUPS = HistogramTally(LOG_GROUP_ROWS)
LOG_ROWS_POSTGRES = CounterTally(LOG_ROWS.labels("postgres"))
LOG_ROWS_SPOOL = CounterTally(LOG_ROWS.labels("spool"))
LOG_COMMIT_POSTGRES = HistogramTally(LOG_COMMIT_SECONDS.labels("postgres"))
LOG_COMMIT_SPOOL = HistogramTally(LOG_COMMIT_SECONDS.labels("spool"))
LOG_FAILURES_POSTGRES = LOG_FAILURES.labels("postgres")
LOG_FAILURES_SPOOL = LOG_FAILURES.labels("spool")
for _outcome in ("delivered", "failed", "given-up"):
    JOB_CALLBACKS.labels(_outcome)
JOB_ROWS_ANSWERED = JOB_ROWS.labels("answered")
JOB_ROWS_FAILED = JOB_ROWS.labels("failed")
JOB_CHUNKS_DONE = JOB_CHUNKS.labels("done")
JOB_CHUNKS_RETRIED = JOB_CHUNKS.labels("retried")
JOB_CHUNKS_DEAD = JOB_CHUNKS.labels("dead")
JOB_CHUNKS_STALE = JOB_CHUNKS.labels("stale")
JOB_CHUNKS_NEEDLESS = JOB_CHUNKS.labels("needless")


@cache
def requests(route: str, status: int, outcome: str) -> CounterTally:
    return CounterTally(REQUESTS.labels(route, str(status), outcome))


@cache
def key_requests(key: str, status: int) -> CounterTally:
    return CounterTally(KEY_REQUESTS.labels(key, str(status)))


@cache
def request_seconds(route: str) -> HistogramTally:
    return HistogramTally(REQUEST_SECONDS.labels(route))
