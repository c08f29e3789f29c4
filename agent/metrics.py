"""Count an agent's activity since its start, and export it as Prometheus text."""

import msgspec

from agent.ntp.measurement import Sample


class AgentCounters(msgspec.Struct, kw_only=True, gc=False):
    """Counters since the start of the process."""

    probes: int = 0
    probes_discarded: int = 0
    """Discarded probes and results: the clock was set meanwhile, or one of the next two reasons applies."""
    probes_unsent: int = 0
    """Probes that this host could not send because it lacks a route, a link or a socket."""
    results_unproven: int = 0
    """Results of silent servers, discarded because no other server answered: the host's own network was down."""
    samples_sent: int = 0
    samples_received: int = 0
    ignored_short: int = 0
    ignored_mode: int = 0
    ignored_origin: int = 0
    ignored_source: int = 0
    stamps_by_program: int = 0
    """Replies without a kernel timestamp, whose time is less accurate."""
    clock_checks: int = 0
    """Checks in which a server was asked; a host that cannot send by a protocol asks none."""
    clock_checks_failed: int = 0
    clock_steps: int = 0
    batches_made: int = 0
    batches_sent: int = 0
    """Publishes of batches, including repetitions."""
    batches_committed: int = 0
    results_rejected: int = 0
    messages_refused: int = 0
    """Messages to the agent that were undecodable or invalid."""
    connections: int = 0

    def count_samples(self, samples: list[Sample]) -> None:
        """Add the samples of a series."""
        self.samples_sent += len(samples)
        for sample in samples:
            self.ignored_short += sample.ignored.short
            self.ignored_mode += sample.ignored.mode
            self.ignored_origin += sample.ignored.origin
            self.ignored_source += sample.ignored.source
            if sample.reply is not None:
                self.samples_received += 1
                self.stamps_by_program += not sample.kernel_stamps


def prometheus_text(counters: AgentCounters, gauges: dict[str, float]) -> str:
    """Format counters and gauges as Prometheus text; a gauge's name may include labels in braces."""
    lines: list[str] = []
    for name in counters.__struct_fields__:
        lines.append(f"# TYPE ntppool_agent_{name}_total counter")
        lines.append(f"ntppool_agent_{name}_total {getattr(counters, name)}")
    announced: set[str] = set()
    for name, value in gauges.items():
        family = name.partition("{")[0]
        if family not in announced:
            lines.append(f"# TYPE ntppool_agent_{family} gauge")
            announced.add(family)
        lines.append(f"ntppool_agent_{name} {value:g}")
    return "\n".join(lines) + "\n"
