"""The orchestrator's endpoints: each reads the newest state, asks a pure function, appends, and answers."""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
from prometheus_client import Counter

from flowctl import api
from flowctl.decision import Decision, Rejected
from flowctl.errors import InvalidSpecError, JournalUnavailableError, NotFoundError, UserError
from flowctl.fleet import Fleet, PipelineState
from flowctl.ids import InstanceId
from flowctl.journal.events import PipelineSubmitted
from flowctl.journal.log import Entry
from flowctl.projection import refusal
from flowctl.serving import ServiceContext
from flowctl.spec.checks import MAX_PIPELINE_BYTES, verify
from flowctl.spec.model import Pipeline
from flowctl_orchestrator import decide
from flowctl_orchestrator.drain import decide_drain, decide_undrain
from flowctl_orchestrator.lifecycle import is_live
from flowctl_orchestrator.placement import is_on
from flowctl_orchestrator.planner import Planner
from flowctl_orchestrator.preview import moved, preview
from flowctl_orchestrator.views import answer

READ_ON_S: Final = 1.0

_decoder = msgspec.json.Decoder(Pipeline)


class Commands:
    """What the CLI and other tools may ask."""

    def __init__(self, context: ServiceContext, planner: Planner, *, name: str) -> None:
        self._context = context
        self._projection = context.projection
        self._planner = planner
        self._name = name
        self._requests = Counter(
            "flowctl_orchestrator_requests", "Requests answered or refused", ["verb"], registry=context.metrics
        )

    async def submit(self, request: api.Submit) -> api.Submitted:
        """Run a pipeline.

        Raises:
            InvalidSpecError: it cannot be obeyed; with every problem.
            RefusedError, JournalUnavailableError: see ``Projection.decide``.
        """
        self._requests.labels("submit").inc()
        pipeline = read_pipeline(request.pipeline)
        change = "created"

        def choose(fleet: Fleet) -> Decision:
            nonlocal change
            state = fleet.pipelines.get(pipeline.name)
            if state is not None and _obeyed(state, pipeline, request):
                change = "created" if state.revision == 1 else "changed"
                return []
            change = "changed" if state is not None and is_live(state) else "created"
            decision = decide.decide_submit(fleet, pipeline, source=request.source, fresh=request.fresh)
            if isinstance(decision, Rejected) or not decision or request.expected_seq is None:
                return decision  # what is so already needs no plan: the request may have come twice
            what = moved(fleet, pipeline.name, request.expected_seq)
            if what is not None:
                return Rejected("precondition", f"the plan is out of date: {what}", hint="look at the new plan and decide again")
            return decision

        entries = await self._decide(choose, request)
        state = self._projection.fleet.pipelines.get(pipeline.name)
        for entry in entries:
            if isinstance(entry.event, PipelineSubmitted):
                return api.Submitted(pipeline=pipeline.name, revision=entry.event.revision, change=change, seq=entry.seq)
        if state is None:
            raise NotFoundError(f"pipeline {pipeline.name} was not accepted")
        change = change if _obeyed(state, pipeline, request) else "unchanged"
        return api.Submitted(pipeline=pipeline.name, revision=state.revision, change=change, seq=state.submitted_seq)

    async def preview(self, request: api.Preview) -> api.PreviewView:
        """What a submission would do now.

        Raises:
            InvalidSpecError, RefusedError: see ``submit``.
        """
        self._requests.labels("preview").inc()
        pipeline = read_pipeline(request.pipeline)
        await self._projection.sync()
        found = preview(self._projection.fleet, pipeline, self._projection.journal.now_ns(), fresh=request.fresh)
        if isinstance(found, Rejected):
            raise refusal(found)
        return found

    async def drain(self, request: api.DrainHost) -> api.Done:
        """Empty a host; done already if it was told so.

        Raises:
            NotFoundError: there is no such host.
        """
        self._requests.labels("drain").inc()
        entries = await self._decide(lambda fleet: decide_drain(fleet, request.host, reason=request.reason), request)
        return api.Done(seq=self._last(entries), instances=self._on_host(request.host))

    async def undrain(self, request: api.UndrainHost) -> api.Done:
        """Use a host again; done already if it is used.

        Raises:
            NotFoundError: there is no such host.
        """
        self._requests.labels("undrain").inc()
        entries = await self._decide(lambda fleet: decide_undrain(fleet, request.host), request)
        return api.Done(seq=self._last(entries), instances=self._on_host(request.host))

    def _on_host(self, name: str) -> list[str]:
        """What a host runs or is to run."""
        return sorted(str(each.id) for each in self._projection.fleet.instances.values() if is_on(each, name))

    async def stop(self, request: api.Stop) -> api.Done:
        """End a pipeline; done already if it has ended.

        Raises:
            NotFoundError: there is no such pipeline.
        """
        self._requests.labels("stop").inc()
        entries = await self._decide(lambda fleet: decide.decide_stop(fleet, request.pipeline, reason=request.reason), request)
        members = self._projection.fleet.instances_of(request.pipeline)
        return api.Done(seq=self._last(entries), instances=[str(each.id) for each in members if each.active or each.wanted])

    async def restart(self, request: api.RestartInstances) -> api.Done:
        """Start instances anew.

        Raises:
            NotFoundError, RefusedError: see ``decide_restart``.
        """
        self._requests.labels("restart").inc()
        await self._projection.sync()
        upto = self._projection.fleet.seq
        written: list[Entry] = []
        while True:
            entries = await self._decide(
                lambda fleet: decide.decide_restart(fleet, request.pipeline, request.component, request.index, upto_seq=upto),
                request,
            )
            if not entries:
                break
            written += entries
        names = [str(entry.aggregate.instance) for entry in written if entry.aggregate is not None]
        return api.Done(seq=self._last(written), instances=names)

    async def scale(self, request: api.Scale) -> api.Done:
        """Change how many instances a component has.

        Raises:
            NotFoundError, RefusedError: see ``decide_scale``.
        """
        self._requests.labels("scale").inc()
        entries = await self._decide(
            lambda fleet: decide.decide_scale(fleet, request.pipeline, request.component, request.replicas), request
        )
        ids = [InstanceId(request.pipeline, request.component, index) for index in range(request.replicas)]
        return api.Done(seq=self._last(entries), instances=[str(id_) for id_ in ids])

    async def status(self, request: api.StatusRequest) -> api.StatusView:
        """Everything, or one pipeline: all that is in the journal, or while that is away what was.

        Raises:
            NotFoundError: there is no such pipeline.
            DeadlineError: this orchestrator lags behind the journal; another one may not.
        """
        self._requests.labels("status").inc()
        projection = self._projection
        await self._read_on()
        return answer(
            projection.fleet,
            projection.journal.now_ns(),
            pipeline=request.pipeline,
            troubles=self._planner.troubles,
            unknown_since_ns=projection.unavailable_since_ns,
        )

    async def _read_on(self) -> None:
        """Fold what is in the journal now, if it can be asked."""
        if self._projection.unavailable_since_ns is not None or self._projection.corrupt is not None:
            return
        try:
            async with asyncio.timeout(READ_ON_S):
                last = await self._projection.journal.last_sequence()
        except (JournalUnavailableError, TimeoutError):
            return
        await self._projection.caught_up(last, timeout_s=READ_ON_S)

    async def info(self, request: api.InfoRequest) -> api.Info:
        """How this orchestrator is."""
        del request
        return self._context.info(api.ORCHESTRATOR, self._name, self.readiness())

    def readiness(self) -> str | None:
        """None if commands can be obeyed now, else why not."""
        if self._projection.corrupt is not None:
            return f"the journal lost entries: {self._projection.corrupt}"
        if self._projection.unavailable_since_ns is not None:
            return "the journal does not answer"
        return None

    async def _decide(self, choose: Callable[[Fleet], Decision], request: api.Request) -> list[Entry]:
        return await self._projection.decide(choose, actor=request.actor, correlation=request.correlation, sync=True)

    def _last(self, entries: list[Entry]) -> int:
        return entries[-1].seq if entries else self._projection.fleet.seq


def _obeyed(state: PipelineState, pipeline: Pipeline, request: api.Submit) -> bool:
    """Was this very request obeyed already, and its answer lost on the way?"""
    return bool(request.correlation) and state.correlation == request.correlation and state.pipeline == pipeline


def read_pipeline(raw: msgspec.Raw) -> Pipeline:
    """The pipeline of a request, verified.

    Raises:
        InvalidSpecError: it is not one, or cannot be obeyed.
    """
    data = bytes(raw)
    if len(data) > MAX_PIPELINE_BYTES:
        raise InvalidSpecError([UserError(f"the pipeline has {len(data)} bytes, more than {MAX_PIPELINE_BYTES}")])
    try:
        pipeline = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidSpecError([UserError(f"the request holds no pipeline: {error}")]) from error
    verify(pipeline)
    return pipeline
