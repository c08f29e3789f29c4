"""Test what a node of a real Galera cluster says about itself; ``scripts/bootstrap --galera`` is needed."""

import os
import signal

from testbed.galera import GaleraCluster
from testbed.waiting import block_until


def test_a_node_that_was_removed_while_it_was_stopped_answers_only_as_a_member_again(cluster: GaleraCluster) -> None:
    first, _, frozen = cluster.nodes
    pid = frozen.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        block_until(lambda: first.state("wsrep_cluster_size") == "2")
    finally:
        os.kill(pid, signal.SIGCONT)
    block_until(frozen.answers)
    assert first.state("wsrep_cluster_size") == "3"
