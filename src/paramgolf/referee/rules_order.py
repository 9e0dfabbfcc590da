"""The rule about the order of documents: what was it, does any credit depend on it, is it paid for?"""

from __future__ import annotations

from paramgolf.predict.orders import carries, order_class
from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.limits import Limits

RULE = "document-order"


def document_order(found: Evidence, _: Limits) -> Finding:
    """The class of the order: stream, permuted-stateless, permuted-stateful (rules.md, V12; R14).

    A permuted order that credits depend on is a code only for a decoder who is told it. Here the lengths that give it
    are charged; the contest's convention charges nothing for an order: legal by precedent there, never ruled on.
    """
    order, record = found.plan, found.score
    if order is None or record is None:
        return Finding(RULE, "UNPROVEN", f"the order is not known: {found.trouble('score.json', 'bits.npz')}.")
    told = record.get("plan")
    claimed = told.get("order", "stream") if isinstance(told, dict) else "stream"
    if claimed != order.order:
        says = (
            f"score.json says that documents came in the order {str(claimed)[:40]!r}, bits.npz is in {order.order!r}."
        )
        return Finding(RULE, "FAIL", says)
    # Nobody's word is taken for a state that is not carried: without the recipe, it may be.
    adapt = str(record.get("adapt"))
    carried = found.recipe is None or carries(adapt, found.recipe.score, order.lanes)
    kind = order_class(order.order, carries=carried)
    if kind == "stream":
        return Finding(RULE, "PASS", "stream: documents were scored in the order of the text.", {"class": kind})
    alone, size = order.permutation_bits, sum(_sizes(found))
    numbers: Numbers = {"class": kind, "side_bits": order.side_bits, "permutation_bits": alone}
    if size:
        numbers |= {"side_bpb": order.side_bits / size, "permutation_bpb": alone / size}
    if kind == "permuted-stateless":
        says = (
            f"{kind}: documents were scored {order.order}, and no credit depends on the ones before, by its own "
            f"account (score.json: adapt {adapt[:40]!r}; a text that is scored again shows it)."
        )
        return Finding(RULE, "PASS", says, numbers)
    says = (
        f"{kind}: documents were scored {order.order} with what the ones before taught; {order.side_bits:,} bits for "
        f"the lengths, which give the order, are charged. The contest charges no order (naming it alone takes "
        f"{alone:,.0f} bits): legal by precedent there."
    )
    return Finding(RULE, "PASS", says, numbers)


def _sizes(found: Evidence) -> list[int]:
    return [] if found.arrays is None else [int(size) for size in found.arrays["sizes"]]
