"""``dask adaptive run``: a script that knows nothing of us gets a cluster, and keeps its ways."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from tests.waiting import LIMIT_S, soon

from dask_adaptive import Cluster
from dask_adaptive import journal as journals
from dask_adaptive.show import run_script
from dask_adaptive.show.run import environment_of

RUN = [sys.executable, "-W", "ignore", "-m", "dask", "adaptive", "run"]


@pytest.fixture
def script(tmp_path):
    """Write a script; returns its path."""

    def write(text: str, name: str = "script.py") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def call(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, cwd=cwd, check=False)


# --- a cluster around a script ---------------------------------------------------------------------------------


def test_a_bare_client_finds_the_cluster_and_everything_is_passed_on(script, tmp_path):
    path = script(
        """
        import sys
        from dask.distributed import Client

        client = Client()
        print(sum(client.gather(client.map(lambda i: i * i, range(10)))), *sys.argv[1:])
        print("to stderr", file=sys.stderr)
        sys.exit(7)
        """
    )
    report, journal = tmp_path / "out" / "run.svg", tmp_path / "run.jsonl"
    done = call(*RUN, "--maximum", 2, "--report", report, "--journal", journal, path, "--maximum", "x", "-h")
    assert done.returncode == 7, done.stderr
    assert done.stdout == "285 --maximum x -h\n"
    assert "to stderr\n" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"dask adaptive run: .*, \d+ worker-seconds, at most [12] workers?, .*; picture in .*run\.svg", last
    )
    assert report.stat().st_size > 1000
    assert any(record.plan.submits for record in journals.read(journal))


def test_scheduler_and_workers_import_what_lies_beside_the_script(script, tmp_path):
    script("def double(x):\n    return 2 * x", "beside.py")
    path = script(
        """
        import beside
        from distributed import Client

        def outer(x):
            return beside.double(x)

        client = Client()
        print(client.gather([client.submit(outer, 4), client.submit(beside.double, 5)]))
        """
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = call(*RUN, "--quiet", path, cwd=elsewhere)
    assert done.stdout == "[8, 10]\n", done.stderr


def test_quiet_leaves_only_what_the_script_says(script):
    done = call(*RUN, "--quiet", script("from distributed import Client\nprint(Client().submit(abs, -3).result())"))
    assert (0, "3\n", "") == (done.returncode, done.stdout, done.stderr)


def test_work_that_never_reached_the_cluster_is_said(script):
    done = call(*RUN, script("print('nothing to do')"))
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].endswith("no task of the script reached the cluster")


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "KeyboardInterrupt"), (signal.SIGTERM, 143, "")]
)
def test_a_signal_reaches_the_script_and_nothing_is_left(script, tmp_path, number, code, said):
    path = script(
        f"""
        import pathlib, time
        from dask.distributed import Client

        client = Client()
        running = client.submit(time.sleep, 1000)
        client.wait_for_workers(1)
        pathlib.Path({str(tmp_path / "ready")!r}).touch()
        running.result()
        """
    )
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        process = subprocess.Popen([*RUN, str(path)], stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
    try:
        soon((tmp_path / "ready").exists, "a worker serves the script")
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2, "the script and a worker"
        process.send_signal(number)
        assert code == process.wait(LIMIT_S), log.read_text()
        _, left = psutil.wait_procs(family, LIMIT_S)
        assert left == []
    finally:
        if process.poll() is None:
            process.kill()
    assert said in log.read_text()
    assert "worker-seconds" in log.read_text()


def test_ctrl_c_on_a_terminal_reaches_the_script_once(script):
    path = script(
        """
        import time
        try:
            print("waiting", flush=True)
            time.sleep(1000)
        except KeyboardInterrupt:
            print("first", flush=True)
            try:
                time.sleep(2)
            except KeyboardInterrupt:
                print("second", flush=True)
        """
    )
    ours, theirs = pty.openpty()
    own = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", own, *RUN, str(path)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):  # how a terminal says that nobody writes to it any longer
        while piece := os.read(ours, 1000):
            said += piece
            if b"waiting" in piece:
                os.write(ours, b"\x03")
    os.close(ours)
    assert process.wait(LIMIT_S) == 0, said.decode()
    assert b"first" in said
    assert b"second\r" not in said
    assert b"worker-seconds" in said


# --- hints -----------------------------------------------------------------------------------------------------


def beside(
    script: Path | str, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the script as ``dask adaptive run`` does, without the cluster."""
    command = [sys.executable, run_script.__file__, str(script), *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=env, cwd=cwd, check=False)


def test_a_cluster_of_its_own_is_told_once(script):
    path = script(
        """
        from dask.distributed import Client, LocalCluster

        for _ in range(2):
            with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
                print(type(cluster).__name__)
        """
    )
    done = beside(path)
    assert (0, "LocalCluster\nLocalCluster\n") == (done.returncode, done.stdout)
    assert done.stderr.count("makes its own LocalCluster") == 1
    assert "write Client() instead" in done.stderr


def test_computing_without_a_client_is_told_once(script):
    path = script("import dask\nfor _ in range(2): print(dask.delayed(abs)(-4).compute())")
    done = beside(path)
    assert (0, "4\n4\n") == (done.returncode, done.stdout)
    assert done.stderr.count("computes without a client") == 1


def test_a_client_with_options_is_told_what_to_change(script):
    done = beside(
        script("from distributed import Client\nClient(n_workers=4)"), DASK_SCHEDULER_ADDRESS="tcp://127.0.0.1:1"
    )
    assert done.returncode == 1
    assert "ValueError: Unexpected keyword arguments" in done.stderr
    assert "found by Client() without any" in done.stderr.splitlines()[-1]


def test_a_script_that_uses_the_cluster_is_told_nothing(script):
    path = script(
        """
        import dask
        from distributed import Client, Scheduler
        if __name__ == "__main__":
            import asyncio

            async def main():
                async with Scheduler(port=0, dashboard=False) as s, Client(s.address, asynchronous=True): pass

            asyncio.run(main())
        """
    )
    done = beside(path)
    assert done.returncode == 0
    assert "dask adaptive run" not in done.stderr


# --- as python does --------------------------------------------------------------------------------------------

SCRIPTS = {
    "names": "import sys; print(__name__, __file__, sys.argv, sys.path[0], __spec__, __doc__)",
    "no future of ours": "def f(x: undefined): pass",
    "raises": "def f():\n    raise KeyError('x')\nf()",
    "cause": "try:\n    1 / 0\nexcept Exception as e:\n    raise OSError('y') from e",
    "syntax": "def f(:\n",
    "exit with words": "import sys; sys.exit('that is all')",
    "exit with nothing": "raise SystemExit",
    "at exit": "import atexit\ntext = 'still here'\natexit.register(lambda: print(text))",
    "pickles": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    "main": "import __main__\nx = 3\nprint(__main__.x)",
    "beside": "import other; print(other.x)",
    "spawn": "import multiprocessing as mp\ndef f(x): return x + 1\n"
    "if __name__ == '__main__':\n    with mp.get_context('spawn').Pool(1) as p: print(p.map(f, [1]))",
    "excepthook": "import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n1 / 0",
    "settings before dask": "import os\nos.environ['DASK_SCHEDULER_ADDRESS'] = 'x://y'\n"
    "import dask.config\nprint(dask.config.get('scheduler-address'))",
}


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=list(SCRIPTS))
def test_a_script_runs_as_under_python_itself(script, text):
    script(text)
    path = script("x = 5", "other.py")
    expected = call(sys.executable, "script.py", cwd=path.parent)
    actual = beside("script.py", cwd=path.parent)
    assert (expected.returncode, expected.stdout, expected.stderr) == (actual.returncode, actual.stdout, actual.stderr)


def test_a_script_behind_a_link_finds_what_lies_beside_it(script, tmp_path):
    script("x = 5", "other.py")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "link.py").symlink_to(script(SCRIPTS["beside"] + "; " + SCRIPTS["names"]))
    expected = call(sys.executable, "links/link.py", cwd=tmp_path)
    actual = beside("links/link.py", cwd=tmp_path)
    assert (0, expected.stdout) == (actual.returncode, actual.stdout)


def test_a_module_runs_as_under_python_itself(script):
    path = script("import sys; print(__name__, sys.argv[1:], sys.path[0]); sys.exit(4)", "mod.py")
    expected = call(sys.executable, "-m", "mod", "a", cwd=path.parent)
    actual = call(sys.executable, run_script.__file__, "-m", "mod", "a", cwd=path.parent)
    assert expected.returncode == 4
    assert (expected.returncode, expected.stdout, expected.stderr) == (actual.returncode, actual.stdout, actual.stderr)


# --- mistakes, and what fails around a script ---------------------------------------------------------------------


def test_a_file_of_somebody_else_is_no_journal(script, tmp_path):
    path = script("print('never')")
    theirs = tmp_path / "theirs.py"
    for text in ("x = 1\ny = 2", "{}"):
        theirs.write_text(text)
        done = call(*RUN, "--journal", theirs, path)
        assert (2, "", text) == (done.returncode, done.stdout, theirs.read_text())
        assert "is not empty, and no journal; name another file" in done.stderr


def test_a_picture_that_cannot_be_written_is_told_before_the_script_runs(script, tmp_path):
    (tmp_path / "file").touch()
    done = call(*RUN, "--report", tmp_path / "file" / "x.png", script("print('never')"))
    assert (2, "") == (done.returncode, done.stdout)
    assert "the picture cannot be written to" in done.stderr


def test_a_picture_that_cannot_be_written_in_the_end_changes_no_exit_code(script, tmp_path):
    path = script(
        f"""
        import pathlib, sys
        from dask.distributed import Client
        assert 3 == Client().submit(sum, [1, 2]).result()
        pathlib.Path({str(tmp_path)!r}, "x.svg").mkdir()
        sys.exit(7)
        """
    )
    done = call(*RUN, "--report", tmp_path / "x.svg", path)
    assert 7 == done.returncode
    assert "the picture cannot be written to" in done.stderr
    assert "worker-seconds" in done.stderr


def test_what_a_killed_run_left_is_removed_by_the_next_and_a_living_one_is_left_alone(script, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    wait, said = script("import time\nprint('on', flush=True)\ntime.sleep(600)\n"), {"stdout": subprocess.PIPE}
    with subprocess.Popen([*RUN, wait], **said) as first, subprocess.Popen([*RUN, wait], **said) as second:
        try:
            assert [b"on\n", b"on\n"] == [each.stdout.readline() for each in (first, second)]
            kill_with_its_script(first)
            assert 2 == len(journals_in(tmp_path))
            assert 0 == call(*RUN, script("print('done')", "next.py")).returncode
            assert 1 == len(journals_in(tmp_path)), "of the one that lives"
        finally:
            for each in (first, second):
                kill_with_its_script(each)
    assert 0 == call(*RUN, script("print('done')", "next.py")).returncode
    assert [] == journals_in(tmp_path)


def kill_with_its_script(process: subprocess.Popen[bytes]) -> None:
    scripts = psutil.Process(process.pid).children() if process.poll() is None else []
    process.kill()
    process.wait()
    for each in scripts:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def journals_in(folder: Path) -> list[Path]:
    return list(folder.glob("dask-adaptive-*/journal.jsonl"))


def test_a_journal_that_cannot_be_read_in_the_end_changes_no_exit_code(script, tmp_path):
    path = script(
        f"""
        import pathlib, sys
        pathlib.Path({str(tmp_path)!r}, "run.jsonl").write_text("theirs\\n")
        sys.exit(7)
        """
    )
    done = call(*RUN, "--journal", tmp_path / "run.jsonl", path)
    assert 7 == done.returncode
    assert "is not a journal's" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_that_is_not_there_is_told_before_a_cluster_is_started():
    done = call(*RUN, "-m", "nosuchmodule.at.all")
    assert (2, "") == (done.returncode, done.stdout)
    assert "there is no module 'nosuchmodule.at.all'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_finds_an_encrypted_cluster_too(script):
    path = script(
        """
        from dask.distributed import Client
        client = Client()
        assert client.scheduler.address.startswith("tls://")
        print(client.submit(sum, [1, 2]).result())
        """
    )
    with (
        ExitStack() as until_over,
        Cluster("local", n_workers=1, security=True, scheduler_options={"dashboard": False}) as cluster,
    ):
        environment = environment_of(cluster, until_over)
        done = subprocess.run(
            [sys.executable, path], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    assert ("3\n", 0) == (done.stdout, done.returncode), done.stderr
    assert not Path(environment["DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"]).exists()
