"""An audit from end to end: a gateway and a worker as processes, real videos, and what the metrics say."""

from __future__ import annotations

from pathlib import Path

import httpx2
from benchmarks.reuse_served import FIELDS, PACE
from benchmarks.service_processes import Service, wait_for

from rushes.client import Client

FLAGS = ("--no-auth", "--latent-reuse", "on", "--audit-share", "1")


def test_a_hit_is_made_again_and_found_to_be_the_same(tmp_path: Path) -> None:
    """The worker's frames depend on the seed alone, which is that of the hit."""
    with Service(tmp_path, gateway=FLAGS, pace=PACE) as service:
        _, url = service.start_gateway()
        service.start_worker()

        def metrics() -> str:
            return httpx2.get(f"{url}/metrics").text

        with Client(url) as client:
            client.create("a red ball rolls over fresh snow", seed=1, **FIELDS).wait()
            wait_for(lambda: "rushes_reuse_entries 1.0" in metrics())
            hit = client.create("A red ball rolling over fresh snow", seed=5, **FIELDS).wait()
            assert hit.video["cache"]["kind"] == "latent"
            wait_for(lambda: 'rushes_reuse_audits_total{verdict="same"} 1.0' in metrics())
            assert len(list(client.list())) == 2, "nobody sees the audit's job"
        assert 'rushes_reuse_audits_total{verdict="different"}' not in metrics()
