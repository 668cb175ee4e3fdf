"""What a job gets of its worker's environment by asking for it."""

from __future__ import annotations

import pytest

from tests.security.site import Site


@pytest.mark.parametrize("name", ["LAUNCH_REDIS_URL", "CELERY_BROKER_URL", "SSH_AUTH_SOCK"])
def test_a_job_gets_no_login_of_its_worker(site: Site, name: str) -> None:
    run = site.submit("sh", "-c", f"echo ${name}", env_from=[name])
    run.wait(30)
    assert run.record.attempt == 1
    assert f"--env-from {name}" in (run.record.reason or ""), run.record
    assert b"worker" not in run.logs()
