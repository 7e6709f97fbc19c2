"""README's table of clients promises nothing that no test shows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

TRITON = "clients/test_clients_triton.py::"
OTHERS = "clients/test_clients_others.py::"
RELOAD = "clients/test_clients_reload.py::"
VECTORS = "conformance/test_conformance.py::"
FRONT = "net/test_net_front.py::"

SHOWN_BY = {
    "`curl`, `requests`, a script": ["app/test_app_serving.py::test_the_source_documents_client_works_word_for_word"],
    "TensorFlow Serving REST": [VECTORS + "test_a_vector_is_answered_as_the_server_it_comes_from_answers"],
    "`tensorflow-serving-api`": [
        OTHERS + "test_predict_takes_every_form_of_a_tensor",
        OTHERS + "test_classify",
        OTHERS + "test_regress_with_context",
        OTHERS + "test_multi_inference",
        OTHERS + "test_metadata_of_signatures",
        OTHERS + "test_model_status",
        OTHERS + "test_the_document_s_client_runs_word_for_word",
    ],
    "TensorFlow Serving's start scripts": [
        RELOAD + "test_the_file_says_what_is_served",
        RELOAD + "test_a_model_is_added",
        RELOAD + "test_a_policy_is_changed",
        RELOAD + "test_a_label_is_moved_in_two_steps",
        RELOAD + "test_bad_configs_change_nothing",
        RELOAD + "test_models_that_are_absent_are_unloaded",
    ],
    "`tritonclient.http` and `.grpc`": [
        TRITON + "test_infer_with_binary_tensors",
        TRITON + "test_infer_over_grpc",
        TRITON + "test_the_async_clients",
        TRITON + "test_classification",
        TRITON + "test_statistics_over_http",
        TRITON + "test_statistics_over_grpc",
        TRITON + "test_model_config",
        TRITON + "test_the_repository_index",
    ],
    "`tritonclient` streams": [
        TRITON + "test_a_stream",
        TRITON + "test_the_async_stream",
        OTHERS + "test_fetch_reads_events",
    ],
    "a Triton model repository": [
        TRITON + "test_model_config",
        TRITON + "test_classification",
        TRITON + "test_a_stream",
    ],
    "KServe's": [
        OTHERS + "test_kserve_over_rest_v1",
        OTHERS + "test_kserve_over_rest_v2",
        OTHERS + "test_kserve_over_grpc",
    ],
    "MLflow": [
        FRONT + "test_the_same_model_answers_every_protocol",
        FRONT + "test_mlflow_and_sagemaker_ask_for_health_in_their_way",
        "test_docs.py::test_what_a_page_shows_works",
    ],
    "JavaScript": [
        OTHERS + "test_fetch_infers_and_predicts",
        OTHERS + "test_fetch_sends_typed_arrays",
        OTHERS + "test_grpc_js",
    ],
    "gRPC health probes": [
        OTHERS + "test_health_check",
        OTHERS + "test_health_watch",
        OTHERS + "test_a_call_without_stubs",
        OTHERS + "test_both_versions_of_reflection_list_the_same",
    ],
    "Prometheus dashboards": [VECTORS + "test_dashboards_find_the_names_they_know"],
    "generated clients": ["net/test_net_openapi_live.py::test_the_server_does_what_its_document_says"],
}
"""The beginning of each row, and the tests that show it."""


def rows() -> list[str]:
    """The first column of the table."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| Your client today .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()]


def test_every_row_says_which_tests_show_it() -> None:
    """No row without tests, and none that README does not have."""
    assert [next(start for start in SHOWN_BY if row.startswith(start)) for row in rows()] == [*SHOWN_BY]


@pytest.mark.parametrize("test", sorted({test for tests in SHOWN_BY.values() for test in tests}))
def test_the_tests_exist(test: str) -> None:
    """A test that is renamed takes its row along."""
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))

    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
