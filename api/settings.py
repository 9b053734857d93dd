"""Every knob of a replica: type, unit, bounds, default and the reason for it.

Read from the environment with the prefix `SHOAL_`, and from files in /run/secrets (one a setting, e.g.
`/run/secrets/SHOAL_POSTGRES_PASSWORD`), so that a password need not stand in the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

HERE = Path(__file__).parent
SECRETS = Path("/run/secrets")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="SHOAL_",
        frozen=True,
        extra="ignore",
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    # --- models ---------------------------------------------------------------------------------------------------
    model_repository: Path = HERE / "model_repository"
    """Directory of models: `<name>/model.yaml` and `<name>/<version>/{model.pt2, version.yaml}`."""

    default_model: str = "penguins"
    """The model that `/predict` answers with."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run. `auto` takes the GPU when there is one."""

    threads: int = Field(0, ge=0, le=256)
    """Threads of one worker's model run. 0: the container's CPU quota shared among its workers, at least 1."""

    inline_run_seconds: float = Field(0.0005, ge=0, le=0.1)
    """A model that answers one row faster than this runs on the event loop; a dearer one gets the executor thread.
    A hop to a thread and back costs about 0.1 ms, and holds up nobody."""

    # --- requests -------------------------------------------------------------------------------------------------
    deadline_seconds: float = Field(10, gt=0, le=300)
    """From the arrival at the replica to the reply. Below nginx's proxy_read_timeout (15 s), so that the client gets
    this server's clear answer and not nginx's; above a model's run."""

    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, le=1024 * 1024 * 1024)
    """Largest request body. The same as nginx's client_max_body_size."""

    max_rows_per_request: int = Field(1024, ge=1, le=100_000)
    """Largest batch in one request. More belong in several requests, so that one caller cannot hold up the rest."""

    max_requests_in_flight: int = Field(1000, ge=1, le=1_000_000)
    """Predictions that one worker answers at the same time. Beyond: 429 before anything is read of them, which costs a
    fraction of an answer, so that a worker with more to do than it can goes on answering as many as it can. At some
    thousand a second these take it 0.2 s."""

    # --- access ----------------------------------------------------------------------------------------------------
    keys_file: Path | None = None
    """File of the API keys' names and hashes, as `python -m api keys` writes it. None: nobody is asked for a key. A
    change counts within a second; a file that is not there lets nobody in."""

    admin_token_file: Path = Path("var/admin_token")
    """File of the admin token, without which no admin route answers. Made with a random one where it is not there."""

    # --- batching -------------------------------------------------------------------------------------------------
    max_batch_rows: int = Field(64, ge=1, le=65_536)
    """Most rows in one run of a model. Larger batches gain little on a CPU and make each caller wait longer."""

    max_queued_rows: int = Field(4096, ge=1, le=1_000_000)
    """Rows of one model version that may wait for a run in one worker. Beyond: 429, nothing computed."""

    # --- cache ----------------------------------------------------------------------------------------------------
    redis_url: str = "redis://127.0.0.1:6379/0"
    """The response cache shared by all replicas."""

    redis_password: SecretStr | None = None
    """Password of Redis; None where it asks for none."""

    cache_ttl_seconds: int = Field(3600, ge=1, le=30 * 86_400)
    """How long Redis keeps an answer. Keys are content-addressed, so an old one is not wrong, only unused."""

    cache_local_rows: int = Field(20_000, ge=0, le=10_000_000)
    """Answers kept in each worker's own memory, about 1 kB each; 0 switches that tier off."""

    redis_budget_seconds: float = Field(0.05, gt=0, le=5)
    """How long a lookup may take. Then it counts as a miss: running the model beats waiting for a sick cache."""

    redis_breaker_failures: int = Field(3, ge=1, le=1000)
    """Failures in a row after which Redis is left alone for a while."""

    redis_breaker_seconds: float = Field(1, gt=0, le=300)
    """How long Redis is left alone before one lookup tries it again."""

    cache_claim_run_seconds: float = Field(0.01, ge=0, le=3600)
    """A row of a model that takes longer than this for one is computed by one worker of all replicas when several miss
    it at once; the others wait for its answer. The claim costs 0.1 ms a row, so at most a hundredth of its run. 0: for
    all models."""

    # --- prediction log -------------------------------------------------------------------------------------------
    postgres_dsn: str = "host=127.0.0.1 port=5432 user=postgres dbname=predictions"
    """Where the prediction log is: a libpq connection string or URL, without the password."""

    postgres_password: SecretStr | None = None
    """Password of Postgres; None where it asks for none."""

    postgres_pool_size: int = Field(4, ge=2, le=64)
    """Connections of one worker: one commits the log, the others answer queries. One more follows the flushes of the
    cache. This plus one, times workers times replicas, must stay below Postgres' max_connections (200 in
    db/postgresql.conf)."""

    log_commit_timeout_seconds: float = Field(3, gt=0, le=60)
    """How long a group commit may take before its rows go to the spool instead. Below the deadline."""

    log_gather_seconds: float = Field(0.0005, ge=0, le=0.1)
    """How long the log waits for company before it commits. Commits share one fsync."""

    log_max_group_rows: int = Field(2048, ge=1, le=100_000)
    """Most rows in one commit."""

    spool_dir: Path = Path("var/spool")
    """Directory of the SQLite spool that takes the log while Postgres is away; a volume shared by the replicas."""

    log_retention_days: int = Field(90, ge=1, le=36_500)
    """Days of predictions kept. Older partitions are dropped whole."""

    # --- jobs -----------------------------------------------------------------------------------------------------
    broker_url: str | None = None
    """The message broker between jobs and their workers: amqp:// or amqps:// for RabbitMQ, nats:// or tls:// for NATS
    with JetStream, redis://, rediss:// or unix:// for Redis Streams. None: the Redis that is the cache, which may evict
    what it holds; that costs a job `job_redeliver_seconds`."""

    broker_password: SecretStr | None = None
    """Password of the broker; None where it asks for none."""

    job_max_rows: int = Field(1_000_000, ge=1, le=100_000_000)
    """Most rows of one job."""

    job_max_body_bytes: int = Field(1024 * 1024 * 1024, ge=1024, le=1024 * 1024 * 1024 * 1024)
    """Longest upload of a job. The same as nginx's client_max_body_size there. Some 6 MB are held at a time."""

    job_chunk_rows: int = Field(2048, ge=1, le=65_536)
    """Rows that a worker answers in one go, and commits together. Smaller: less is done again when a worker dies.
    Larger: fewer commits."""

    job_pool_size: int = Field(2, ge=1, le=64)
    """Connections to Postgres that one worker of a replica has for jobs: to take them in and give their answers out."""

    job_lanes: int = Field(2, ge=1, le=64)
    """Chunks that one worker answers at the same time: one computes while the other is committed."""

    job_prefetch: int = Field(4, ge=1, le=1000)
    """Messages of each priority that one worker holds. More than lanes, so that none waits for the broker."""

    job_max_attempts: int = Field(5, ge=1, le=100)
    """Attempts at a chunk before it is given up, to the dead letters."""

    job_retry_seconds: float = Field(1, gt=0, le=600)
    """Until a chunk that failed is tried again; twice as long each time."""

    job_lease_seconds: float = Field(30, ge=1, le=3600)
    """Without a sign of life for so long a worker counts as gone, and others take its chunks. RabbitMQ knows sooner."""

    job_redeliver_seconds: float = Field(30, ge=1, le=3600)
    """After which a message that nobody took counts as lost, and is published again."""

    job_nice: int = Field(15, ge=0, le=19)
    """Niceness of a worker of jobs: under full load it gets the less of a CPU, so that replicas keep their latency."""

    job_share: float = Field(0.25, gt=0, le=1)
    """Share of its time that a worker of jobs works while single predictions are asked for, which would else wait for
    what it has Postgres write; the rest of it are pauses of some milliseconds. 1: it takes none."""

    callback_secret: SecretStr | None = Field(None, min_length=16)
    """Key of the signature on callbacks, 16 characters at least. None: jobs with a callback are refused."""

    callback_to_private_addresses: bool = False
    """Whether callbacks may go to loopback, link-local, private and other addresses that are not of the internet."""

    callback_timeout_seconds: float = Field(5, gt=0, le=60)
    """How long one attempt to deliver a callback may take."""

    callback_max_attempts: int = Field(8, ge=1, le=50)
    """Attempts to deliver a callback: after 5 s, and then each time twice as long, up to an hour."""

    # --- process --------------------------------------------------------------------------------------------------
    bind: str = "0.0.0.0:8000"
    """Address gunicorn listens on: host:port, or unix:/path."""

    workers: int = Field(2, ge=1, le=256)
    """Worker processes of a replica. Two: the second costs tens of MB after the fork, and serves while one restarts."""

    max_requests: int = Field(0, ge=0, le=1_000_000_000)
    """Requests after which a worker is replaced, up to a tenth more, so that they do not all go at once. 0: never."""

    drain_seconds: int = Field(20, ge=1, le=600)
    """How long a stopping worker waits for requests in flight. Above the deadline, below graceful_timeout_seconds."""

    graceful_timeout_seconds: int = Field(25, ge=1, le=900)
    """When gunicorn kills a stopping worker. Above the drain, below compose's stop_grace_period (30 s)."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Level of the JSON log on standard output. WARNING leaves out the line for each request."""

    @field_validator("keys_file", mode="before")
    @classmethod
    def _nothing_is_no_file(cls, value: object) -> object:
        """`SHOAL_KEYS_FILE=` and not the current directory, which would lock everybody out."""
        return None if value == "" else value

    @model_validator(mode="after")
    def _waits_fit_into_each_other(self) -> Self:
        """Each wait is longer than those inside it; README, 'The ladder of waits'."""
        ladder = (
            ("log_commit_timeout_seconds", "deadline_seconds", "the spool would be tried too late"),
            (
                "deadline_seconds",
                "drain_seconds",
                "a stopping worker would cut off requests that may still be answered",
            ),
            ("drain_seconds", "graceful_timeout_seconds", "gunicorn would kill a worker that still drains"),
            ("max_rows_per_request", "max_queued_rows", "such a batch would always be refused"),
        )
        for shorter, longer, or_else in ladder:
            if getattr(self, shorter) > getattr(self, longer):
                raise ValueError(f"{shorter} must not be above {longer}: {or_else}")
        return self
