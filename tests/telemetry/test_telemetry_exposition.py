"""The text format, written."""

from dukou.telemetry.exposition import Buckets, Metric, Page
from dukou.telemetry.totals import Histogram


def test_a_sample_has_its_labels_in_order_and_its_value_as_it_was_counted() -> None:
    """Whole numbers have no point; others keep every digit."""
    page = Page()

    page.add(Metric("m_total", "counter", ("model", "code"), "What."), [(("a", "b"), 3.0), (("a", "c"), 0.1)])

    assert page.encode().decode() == (
        '# HELP m_total What.\n# TYPE m_total counter\nm_total{model="a",code="b"} 3\nm_total{model="a",code="c"} 0.1\n'
    )


def test_label_values_are_escaped() -> None:
    """No name of a model can end its line or its quotes; what is no Unicode text is still written."""
    page = Page(helps=False)

    page.add(Metric("m", "gauge", ("model",), ""), [(('a"b\\c\nd\udc80',), 1)])

    assert page.encode() == b'# TYPE m gauge\nm{model="a\\"b\\\\c\\nd\\udc80"} 1\n'


def test_a_histogram_is_cumulative_and_in_the_units_of_its_page() -> None:
    """Counts are whole, the sum is scaled; without labels there is only the bound."""
    page = Page(helps=False)

    page.add_histogram(
        Metric("h", "histogram", (), ""), Buckets(("1", "2", "+Inf"), 10.0), [((), Histogram([1, 0, 2], 0.5))]
    )

    assert page.encode().decode() == (
        '# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="2"} 1\nh_bucket{le="+Inf"} 3\nh_sum 5\nh_count 3\n'
    )
