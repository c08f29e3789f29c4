"""What an agent has done since it started, and that as Prometheus text."""

import msgspec

from agent.ntp.measurement import Sample


class AgentCounters(msgspec.Struct, kw_only=True, gc=False):
    """Counts since the start of the process."""

    probes: int = 0
    probes_discarded: int = 0
    """Probes and results thrown away: the clock was set meanwhile, or one of the next two reasons."""
    probes_unsent: int = 0
    """Probes that this host could not send, for want of a route, a link or a socket."""
    results_unproven: int = 0
    """Results of silent servers thrown away because nobody else answered us either: our own network was down."""
    samples_sent: int = 0
    samples_received: int = 0
    ignored_short: int = 0
    ignored_mode: int = 0
    ignored_origin: int = 0
    ignored_source: int = 0
    stamps_by_program: int = 0
    """Replies that the kernel did not stamp, so that their time is less exact."""
    clock_checks: int = 0
    clock_checks_failed: int = 0
    clock_steps: int = 0
    batches_made: int = 0
    batches_sent: int = 0
    """Publishes of batches, repetitions included."""
    batches_committed: int = 0
    results_rejected: int = 0
    messages_refused: int = 0
    """Messages to us that could not be decoded or followed."""
    connections: int = 0

    def count_samples(self, samples: list[Sample]) -> None:
        """Adds what a series saw."""
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
    """Counters and gauges in Prometheus' text format; a gauge's name may carry labels in braces."""
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
