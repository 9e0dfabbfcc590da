"""Training and held-out text never share a document, and the split is the same every time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import LeakError, TextError
from paramgolf.text.split import split_documents
from paramgolf.text.stdlib import standard_library
from paramgolf.text.text import HeldOutText, TrainText, require_disjoint, require_train_text


@settings(max_examples=200, deadline=None)
@given(
    documents=st.lists(st.binary(max_size=20), max_size=40),
    share=st.floats(0.01, 0.99),
)
def test_every_document_lands_on_one_side_and_none_is_lost(documents, share):
    """For two or more distinct documents the sides are disjoint, together all of them, and neither is empty."""
    if len({document for document in documents if document}) < 2:
        return
    train, held_out = split_documents(documents, "t", share)
    assert train.size() > 0 and held_out.size() > 0
    assert not set(train.documents) & set(held_out.documents) - {b""}
    assert sorted([*train.documents, *held_out.documents]) == sorted(documents)


def test_the_split_does_not_depend_on_order_or_on_other_documents():
    """A document keeps its side when the others are shuffled or more are added."""
    documents = [b"document %d" % number for number in range(400)]
    _, held_out = split_documents(documents, "t", 0.1)
    _, backwards = split_documents(documents[::-1], "t", 0.1)
    _, more = split_documents(documents + [b"more %d" % number for number in range(100)], "t", 0.1)
    assert set(held_out.documents) == set(backwards.documents) <= set(more.documents)
    assert 20 <= len(held_out.documents) <= 60  # 40 expected; 20 is 3.3 standard deviations away


def test_a_single_document_is_cut_at_a_line_end():
    """One document gives both sides, whole lines where there are any, and nothing is lost."""
    document = b"".join(b"line %d\n" % number for number in range(1000))
    train, held_out = split_documents([document, document], "t", 0.1)
    assert train.documents[0] + held_out.documents[0] == document
    assert train.documents[0].endswith(b"\n")
    assert abs(held_out.size() / len(document) - 0.1) < 0.01


@given(text=st.text(min_size=2, alphabet=st.characters(exclude_characters="\n")))
def test_a_single_line_is_cut_between_characters(text):
    """Without a line end the cut does not fall inside a character, as long as there are two of them."""
    document = text.encode("utf-8", "surrogatepass")
    train, held_out = split_documents([document], "t", 0.5)
    assert train.documents[0] + held_out.documents[0] == document
    if len(document) >= 8:
        train.documents[0].decode("utf-8", "surrogatepass")
        held_out.documents[0].decode("utf-8", "surrogatepass")


@pytest.mark.parametrize("documents", [[], [b""], [b"x"], [b"x", b"x", b""]])
def test_too_little_text_is_an_error(documents):
    """No text and one byte of text cannot be split, and the error says so."""
    with pytest.raises(TextError, match="t: "):
        split_documents(documents, "t")


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    """The share of held-out documents is a proper fraction."""
    with pytest.raises(TextError, match="held_out_share"):
        split_documents([b"a", b"b"], "t", share)


def test_the_standard_library_splits_by_file_about_eight_percent():
    """The built-in corpus is disjoint, has about 5 % of its bytes held out, and is the same when asked again."""
    train, held_out = standard_library()
    again = standard_library()
    assert (train.digest, held_out.digest) == (again[0].digest, again[1].digest)
    assert not set(train.documents) & set(held_out.documents)
    assert 0.045 < held_out.size() / (train.size() + held_out.size()) <= 0.05
    assert train.size() > 5_000_000
    for document in (*train.documents, *held_out.documents):
        document.decode("utf-8")


def test_the_standard_library_has_no_test_data():
    """Test folders and installed packages are left out: no document is one of their files."""
    import sysconfig
    from pathlib import Path

    train, held_out = standard_library()
    documents = {*train.documents, *held_out.documents}
    root = Path(sysconfig.get_path("stdlib"))
    assert (root / "argparse.py").read_bytes() in documents
    tests = [path.read_bytes() for path in root.glob("test/test_[a-d]*.py")]
    assert not documents & {content for content in tests if len(content) > 1000}


def test_held_out_text_is_refused_where_training_text_belongs():
    """`require_train_text` and `require_disjoint` are the run-time side of the two types."""
    held_out = HeldOutText("h", [b"x" * 64])
    with pytest.raises(LeakError, match="fitting"):
        require_train_text(held_out, "fitting")
    with pytest.raises(LeakError, match="held-out document 0"):
        require_disjoint(TrainText("t", [b"y", b"x" * 64]), held_out)


def test_a_share_near_one_leaves_little_to_train_on():
    """Asked to hold out nearly everything, the split does that, and keeps one document for training."""
    documents = [b"%d words " % index * 20 for index in range(20)]
    train, held_out = split_documents(documents, "text", 0.9999)
    assert len(train.documents) == 1 and len(held_out.documents) == 19
