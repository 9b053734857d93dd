"""What Locust runs. Headless with a verdict: `python -m loadtest --help`. With the web UI, on port 8089:

locust -f loadtest/locustfile.py --host http://127.0.0.1:8080 [--scenario zipf] [--model digits]

Over several machines: the same with --master, and with --worker --master-host HOST. A ramp is chosen on the command
line, as its users are not the web UI's to choose.
"""

# Locust's events and responses are not typed.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from random import Random
from typing import Any, cast

import gevent  # type: ignore[import-untyped]
import msgspec
from locust import FastHttpUser, events, runners, stats, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.runners import MasterRunner, Runner, WorkerRunner

from loadtest import verdict
from loadtest.answers import Checker, Job, SingleAnswer, job_answers, logged, page
from loadtest.outcome import give_verdict
from loadtest.payloads import MODELS, SEED, Model, batch, single
from loadtest.ramp import Ramp
from loadtest.scenarios import BATCH_ROWS, JOB_ROWS, SCENARIOS, Traffic, other
from loadtest.tally import label_shares, tiered

# The top of the ladder of waits: above nginx's proxy_read_timeout (15 s), so that its answer comes first.
CLIENT_TIMEOUT_SECONDS = 20
PAGE_ROWS = 20
JOB_SECONDS = 60  # in which a job is to be done, whatever else runs
JOB_LOOK_SECONDS = 0.25

# Locust's tables as wide as our names, with the tail that its defaults round off; charts that show a run of 30 s.
stats.STATS_AUTORESIZE = False
stats.STATS_NAME_WIDTH = 48
stats.PERCENTILES_TO_REPORT = [0.5, 0.9, 0.95, 0.99, 0.999, 1.0]
stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99]
stats.HISTORY_STATS_INTERVAL_SEC = 1
# Default 3 s: a step of the ramp would be charged with the end of the one before.
runners.WORKER_REPORT_INTERVAL = 1.0


class Run:
    """What all users of this process share, from the start of a test to its end."""

    # Not begun anew with a test, so that no two requests have the same id.
    _counts = itertools.count()

    def __init__(self, name: str, scenario: str, model: str, *, process: int, seed: int) -> None:
        self.traffic = Traffic(SCENARIOS[scenario], MODELS[model], process=process, seed=seed)
        self.checker = Checker()
        # Which user of which process draws what is fixed by the seed.
        self.numbers = (Random(f"{seed} {process} {user}") for user in itertools.count())
        # `WHERE request_id LIKE 'load-NAME-%'` finds a run's rows in the log.
        self.request_ids = (f"load-{name}-{process}-{count}" for count in self._counts)


class Visitor(FastHttpUser):
    """Asks, waits for the answer, checks it, asks again; over one connection that is kept alive."""

    network_timeout = CLIENT_TIMEOUT_SECONDS
    connection_timeout = CLIENT_TIMEOUT_SECONDS
    concurrency = 1
    run_: Run
    """The current one; set on the class."""

    def on_start(self) -> None:
        self.numbers = next(self.run_.numbers)
        self.traffic = self.run_.traffic
        self.checker = self.run_.checker

    @task
    def ask(self) -> None:
        model = self.traffic.model
        match self.traffic.kind(self.numbers):
            case "single":
                self.predict(model)
            case "other":
                self.predict(other(model))
            case "batch":
                self.predict_batch(model)
            case "page":
                self.read_page(model)
            case "lookup":
                self.look_up(model)
            case "job":
                self.run_job(model)

    def predict(self, model: Model) -> tuple[SingleAnswer, str] | None:
        """The answer and the request id it was asked under; None if there was none, or a wrong one."""
        drawn = self.traffic.rows[model.name].draw(self.numbers)
        answers: list[SingleAnswer] = []

        def check(body: bytes, tier: str | None) -> str:
            answer, wrong = self.checker.single(body, model, drawn.number, tier)
            answers.append(answer)
            return wrong

        request_id = self.send("POST", model.path, check, body=single(drawn.row))
        return (answers[0], request_id) if request_id else None

    def predict_batch(self, model: Model) -> None:
        size = self.numbers.randint(*BATCH_ROWS)
        numbers, rows = zip(*(self.traffic.rows[model.name].draw(self.numbers) for _ in range(size)), strict=True)
        self.send(
            "POST",
            f"{model.path}/batch",
            lambda body, tier: self.checker.batch(body, model, numbers, tier),
            body=batch(rows),
        )

    def look_up(self, model: Model) -> None:
        """A 200 means that it is in the log: asks for what was just answered."""
        if predicted := self.predict(model):
            answer, asked_as = predicted
            self.send(
                "GET",
                f"/predictions/{answer.id}",
                lambda body, _: logged(body, answer, asked_as),
                name="/predictions/{id}",
            )

    def run_job(self, model: Model) -> None:
        """Asks for many rows, looks at the job until it has ended, and reads every answer."""
        rows = [self.traffic.rows[model.name].draw(self.numbers).row for _ in range(JOB_ROWS)]
        jobs: list[Job] = []

        def keep(body: bytes, _: str | None) -> str:
            jobs.append(msgspec.json.decode(body, type=Job))
            return ""

        if not self.send("POST", f"/jobs?model={model.name}", keep, body=batch(rows), name="/jobs", status=202):
            return
        path = f"/jobs/{jobs[0].id}"
        give_up = time.monotonic() + JOB_SECONDS
        while jobs[-1].finished_at is None and time.monotonic() < give_up:
            gevent.sleep(JOB_LOOK_SECONDS)
            if not self.send("GET", path, keep, name="/jobs/{id}"):
                return
        self.send("GET", f"{path}/results", lambda body, _: job_answers(body, JOB_ROWS), name="/jobs/{id}/results")

    def read_page(self, model: Model) -> None:
        path = f"/predictions?model={model.name}&limit={PAGE_ROWS}"
        self.send("GET", path, lambda body, _: page(body, model, PAGE_ROWS), name="/predictions")

    def send(
        self,
        method: str,
        path: str,
        check: Callable[[bytes, str | None], str],
        *,
        body: bytes | None = None,
        name: str | None = None,
        status: int = 200,
    ) -> str:
        """Sends a request and counts its answer under its name and tier, as a failure if it is a wrong one.

        Args:
            check: takes the body and X-Cache; says what is wrong, or an empty string.
            name: for the statistics; the path if None.
            status: that an answer has.
        Returns:
            The request id, or an empty string if it failed.
        """
        request_id = next(self.run_.request_ids)
        headers = {"X-Request-Id": request_id}
        if body is not None:
            headers["Content-Type"] = "application/json"
        # Annotated as str, but handed on as it is: bytes are not encoded once more.
        data = cast("str | None", body)
        with self.client.request(method, path, name=name, data=data, headers=headers, catch_response=True) as response:
            wrong = _refusal(response, request_id, status)
            if not wrong:
                tier = _header(response, "X-Cache")
                if tier is not None:
                    response.request_meta["name"] = tiered(name or path, tier)
                try:
                    wrong = check(response.content, tier)
                except msgspec.DecodeError as error:
                    wrong = f"not an answer: {error}"
            if wrong:
                response.failure(wrong)
        return "" if wrong else request_id


def _refusal(response: ResponseContextManager, request_id: str, status: int) -> str:
    """Why there is no answer to check, or an empty string: it must have that status, and be to this request."""
    if response.status_code == 0:
        return f"no answer: {type(getattr(response, 'error', None)).__name__}"
    if response.status_code != status:
        return f"{response.status_code} {_problem(response.content)}"
    if _header(response, "X-Request-Id") != request_id:
        return "X-Request-Id is not the one that was sent"
    return ""


def _header(response: ResponseContextManager, name: str) -> str | None:
    value = None if response.headers is None else response.headers.get(name)
    return None if value is None else str(value)


def _problem(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["type"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "without a problem body"


# --- Locust's events --------------------------------------------------------------------------------------------------
@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--scenario", choices=[*SCENARIOS], default="zipf", help="what is sent")
    parser.add_argument("--model", choices=[*MODELS], default="penguins", help="the model that is asked")
    parser.add_argument("--seed", type=int, default=SEED, help="of the rows and their order", include_in_web_ui=False)
    # The default is the same in all processes of a run: Locust reads its options before it forks.
    run = f"{time.time_ns() // 1_000_000:x}"
    parser.add_argument("--name", default=run, help="part of the request ids: load-NAME-…", include_in_web_ui=False)
    parser.add_argument("--objectives", default=str(verdict.OBJECTIVES), help="YAML file", include_in_web_ui=False)


@events.init.add_listener
def prepare(environment: Environment, runner: Runner, **_: Any) -> None:
    # What is in flight at the end is waited for, so that whatever the server answered is counted here too.
    environment.stop_timeout = CLIENT_TIMEOUT_SECONDS
    if isinstance(runner, WorkerRunner):
        return
    options: Any = environment.parsed_options
    if SCENARIOS[options.scenario].ramp:
        environment.shape_class = Ramp(runner, users=options.num_users or 50, seconds=options.run_time or 60)
    gevent.spawn(_keep_labelling, environment)
    # The last reports of the workers come after the test has stopped. Added here, after Locust's own, which counts.
    environment.events.worker_report.add_listener(lambda **_: label_shares(environment.stats.entries))


def _keep_labelling(environment: Environment) -> None:
    while True:
        label_shares(environment.stats.entries)
        gevent.sleep(1)


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        return  # it has no users
    # A master numbers its workers from 0.
    process = runner.worker_index if isinstance(runner, WorkerRunner) else 0
    options: Any = environment.parsed_options
    Visitor.run_ = Run(options.name, options.scenario, options.model, process=process, seed=options.seed)


@events.test_stop.add_listener
def label_once_more(environment: Environment, **_: Any) -> None:
    # A worker reports under the names that it has: there they stay as they are.
    if not isinstance(environment.runner, WorkerRunner):
        label_shares(environment.stats.entries)


@events.quitting.add_listener
def finish(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = verdict.KEPT  # the master judges
    else:
        options: Any = environment.parsed_options
        label_shares(environment.stats.entries)
        give_verdict(environment, options)
