"""Running one stage: every planned call that is not done yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from avrt.servers.call_report import CallReport
from avrt.servers.content import Content, text_part
from avrt.servers.protocols import CHAT, TRANSCRIPTION
from avrt.traces.call_planner import CallPlanner, PlannedCall
from avrt.traces.config import StageConfig, TeacherConfig
from avrt.traces.ledger import LedgerIndex
from avrt.traces.recorded_calls import CallGroup, PreparedCall, make_missing_calls
from avrt.traces.stage_content import build_content, build_file_content


def run_stage(
    stage: str,
    planner: CallPlanner,
    *,
    retry_rejected: bool = False,
    writer_name: str = "calls",
    is_mine: Callable[[PlannedCall], bool] = lambda call: True,
) -> CallReport:
    """Make all calls of one stage that the ledger does not have yet.

    Args:
        stage: a teacher's name, or ``merge``.
        planner: config and shards.
        retry_rejected: also repeat calls that a server refused permanently, say after raising its context length.
        writer_name: the ledger file to append to.
        is_mine: whether a call belongs to this process, where several share the stage.

    Returns:
        How the stage's calls ended, those of this run and of earlier ones.

    Raises:
        ServerError: the stage cannot continue. Recorded calls stay; the same command continues from there.
        LedgerError: the ledger is damaged, or in use.
        OSError: the disk is full or failing.
    """
    config, repeats = planner.config, planner.repeats(stage)
    servers = config.stage(stage)
    group = CallGroup(
        stage=stage,
        settings=config.key(stage),
        config=servers,
        model=planner.models[stage],
        ledger=config.ledger,
        max_failed_share=config.max_failed_share,
        protocol=TRANSCRIPTION if servers.is_transcriber else CHAT,
    )

    def planned(ledger: LedgerIndex) -> Iterator[tuple[int, str]]:
        for call in planner.calls(stage, ledger):
            if is_mine(call):
                yield call.index * repeats + call.repeat, call.key

    def prepare(number: int, ledger: LedgerIndex) -> PreparedCall:
        """Plan a call again when its turn comes: fifty thousand prompts need not be in memory."""
        call = planner.call(stage, *divmod(number, repeats), ledger)
        assert call is not None
        content = _content(servers, planner, call)
        return PreparedCall(call.key, call.sample.id, content, call.sampling, call.system)

    return make_missing_calls(group, planned, prepare, retry_rejected=retry_rejected, writer_name=writer_name)


def _content(config: StageConfig, planner: CallPlanner, call: PlannedCall) -> Content:
    if not call.media:
        return [text_part(call.prompt)]
    assert isinstance(config, TeacherConfig)
    clip = planner.shards.media(call.index)
    if config.transport == "file":
        assert config.media_dir is not None
        folder = Path(config.media_dir)
        return build_file_content(config.streams, clip, call.prompt, folder, call.sample.id, call.media)
    return build_content(config.streams, clip, call.prompt, as_video=config.student_template is not None)
