"""A cluster in a real notebook: every cell runs in a kernel of its own."""

from __future__ import annotations

import textwrap

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

# The first cell ends with the widget itself, so that its display is an output of the notebook.
CELLS = (
    """
    import time
    from dask_adaptive import LocalCluster

    cluster = LocalCluster(n_workers=0, dashboard_address=":0", name="in a notebook")
    client = cluster.get_client()

    def until(met):
        deadline_s = time.monotonic() + 90
        while not met():
            assert time.monotonic() < deadline_s, status.value
            time.sleep(0.1)

    cluster
    """,
    """
    from dask_adaptive.show.widget import make_widget

    widget = make_widget(cluster)
    status, scaling, adapting, said = widget.children
    widget
    """,
    """
    scaling.children[0].value = 2
    scaling.children[1].click()
    until(lambda: "2 ready" in status.value)
    until(lambda: "starts in " in status.value and "worker-seconds" in status.value)
    print(sum(client.gather(client.map(lambda x: x + 1, range(10)))))
    """,
    """
    adapting.children[1].value = 1
    adapting.children[2].click()
    until(lambda: "0 jobs; at least 0, at most 1" in status.value)
    print(said.value == "", "2 → " in status.value or "1 → 0" in status.value)
    """,
    """
    adapting.children[0].value = 9
    adapting.children[2].click()
    print(said.value)
    """,
    """
    client.close()
    cluster.close()
    print(cluster.status.name)
    """,
)


@pytest.fixture(scope="module")
def outputs():
    """What each cell of the notebook left."""
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def shown(outputs):
    (data,) = [output.data for output in outputs if output.output_type in ("display_data", "execute_result")]
    return data


def test_a_cluster_at_the_end_of_a_cell_is_shown_in_every_form(outputs):
    data = shown(outputs[0])
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "in a notebook" in data["text/html"]
    assert "in a notebook" in data["text/plain"]


def test_the_widget_is_shown(outputs):
    assert "application/vnd.jupyter.widget-view+json" in shown(outputs[1])


def test_the_scale_button_brings_workers_and_the_status_follows(outputs):
    assert printed(outputs[2]) == "55\n"


def test_the_adapt_button_gives_idle_workers_back_with_the_reason(outputs):
    assert printed(outputs[3]) == "True True\n"


def test_what_cannot_be_is_answered_below_the_buttons(outputs):
    assert "minimum" in printed(outputs[4])
    assert "maximum" in printed(outputs[4])


def test_closing_ends_the_refresh_without_a_complaint(outputs):
    assert printed(outputs[5]) == "closed\n"
    assert [output for output in outputs[5] if output.output_type == "error"] == []
