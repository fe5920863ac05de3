"""What is looked at before a job is sent to a cluster, and what a job says of a cluster that it cannot join."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import local, submit
from emo import joining
from emo.config import UserError

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "0123456789abcdef"


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Asks for a token as Ray's does: 401 without any, 403 for a wrong one."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        status = 401 if not given else 200 if given == f"Bearer {TOKEN}" else 403
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"version": "4", "ray_version": "2.60.0"}).encode() if status == 200 else b"no")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def access(dashboard: str, folder: Path, token: str | None = TOKEN) -> dict[str, str]:
    path = folder / "token"
    if token is not None:
        path.write_text(token + "\n")
    return {"RAY_API_SERVER_ADDRESS": dashboard, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def test_a_cluster_with_the_pinned_ray_takes_its_token(dashboard, tmp_path):
    submit.check_cluster(access(dashboard, tmp_path), "2.60.0")
    submit.check_cluster(access(dashboard, tmp_path) | {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_TOKEN_PATH": ""}, "2.60.0")


def said_of(environment: dict[str, str], pinned: str = "2.60.0") -> str:
    with pytest.raises(submit.SubmitError) as told:
        submit.check_cluster(environment, pinned)
    assert str(told.value).count("\n") == 0
    return str(told.value)


def test_what_speaks_against_a_cluster_is_said_in_a_sentence(dashboard, tmp_path):
    good = access(dashboard, tmp_path)
    assert "set RAY_API_SERVER_ADDRESS" in said_of({})
    assert "RAY_AUTH_MODE=token" in said_of(good | {"RAY_AUTH_MODE": "disabled"})
    assert "cannot be read" in said_of(good | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
    assert "does not take this token" in said_of(access(dashboard, tmp_path, "another"))
    assert "runs Ray 2.60.0, and requirements.txt pins 2.61.0" in said_of(access(dashboard, tmp_path), "2.61.0")
    assert "does not answer" in said_of(good | {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"})


def test_no_sentence_holds_the_token(dashboard, tmp_path):
    assert "another" not in said_of(access(dashboard, tmp_path, "another-clusters-secret")).replace(
        "another cluster", ""
    )


def test_only_what_a_job_needs_is_sent():
    sizes = submit.upload_sizes(ROOT)
    assert {"emo", "jobs", "requirements.txt"} <= set(sizes)
    assert not {".git", ".venv", "runs", "tests", "docs", "infra"} & set(sizes)
    assert sum(sizes.values()) < 2 * submit.MEBIBYTE


def test_a_folder_that_is_too_large_is_named_with_what_is_largest_in_it(tmp_path):
    (tmp_path / "small.txt").write_text("x")
    (tmp_path / "videos").mkdir()
    with (tmp_path / "videos" / "one.bin").open("wb") as file:
        file.truncate(101 * submit.MEBIBYTE)
    with pytest.raises(submit.SubmitError, match=r"101 MiB, where Ray takes 100\): videos has 101 MiB"):
        submit.check_size(tmp_path)
    (tmp_path / ".rayignore").write_text("videos/\n")
    submit.check_size(tmp_path)


def test_the_command_stands_after_two_dashes():
    with pytest.raises(submit.SubmitError, match="after --"):
        submit.main(["python", "jobs/sweep.py"])


def test_another_ray_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    pins = tmp_path / "requirements.txt"
    joining.check_versions(pins)  # an installed package has none
    pins.write_text("rich==1\nray==2.60.0\nraydium==3\n")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.60.0")
    joining.check_versions(pins)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.58.1")
    with pytest.raises(UserError, match=r"The cluster runs Ray 2.58.1, and requirements.txt pins 2.60.0"):
        joining.check_versions(pins)


def test_an_old_python_is_refused(monkeypatch):
    monkeypatch.setattr("sys.version_info", (3, 10, 4))
    with pytest.raises(UserError, match=r"Python 3.10, and emo needs 3.11"):
        joining.check_versions()


MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.58.0
    Python: 3.10.2
This process on 10.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""


def test_what_ray_says_of_a_cluster_becomes_a_sentence(monkeypatch):
    said = joining.refusal("10.0.0.1:6379", RuntimeError(MISMATCH))
    assert said == (
        "The cluster at 10.0.0.1:6379 runs Ray 2.58.0 on Python 3.10.2, and this process Ray 2.60.0 on Python 3.11.7; "
        "both must be the same."
    )
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "wants a token: set RAY_AUTH_MODE=token" in joining.refusal("10.0.0.1:6379", ConnectionError("Failed"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "does not take this token" in joining.refusal("10.0.0.1:6379", ConnectionError("Failed"))
    assert joining.refusal("10.0.0.1:6379", RuntimeError("a bug")) is None


def test_an_address_where_nothing_listens_is_said_at_once(dashboard):
    joining.check_answers(dashboard.removeprefix("http://"))
    joining.check_answers("auto")
    with pytest.raises(
        UserError, match=r"No cluster answers at 127\.0\.0\.1:1 \(Connection refused\); unset RAY_ADDRESS"
    ):
        joining.check_answers("127.0.0.1:1")


def test_a_local_cluster_takes_no_folder_that_holds_other_files(tmp_path):
    (tmp_path / "letters").write_text("dear")
    with pytest.raises(local.ClusterError, match="holds other files; name another --folder"):
        local.start(folder=tmp_path)
    with pytest.raises(local.ClusterError, match="No cluster runs here"):
        local.stop(tmp_path)
    assert (tmp_path / "letters").exists()
