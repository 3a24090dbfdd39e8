"""Trees of tasks, as they are written."""

import pytest

from mtl_jax.errors import UserError
from mtl_jax.models.sharing.tree import Group, Split, parse_tree

TASKS = ("box", "classification", "motion", "identity")


def test_trees_are_read():
    assert parse_tree(" ", TASKS) == Group(TASKS)
    assert parse_tree("(box classification | (motion | identity)@3)@2", TASKS) == Split(
        2, (Group(("box", "classification")), Split(3, (Group(("motion",)), Group(("identity",)))))
    )


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("(box classification | motion | identify)@2", "no task is called 'identify'; there are box, class"),
        ("(box classification | motion)@2", "identity is there 0 times in .*; expected once"),
        ("(box classification | motion identity box)@2", "box is there 2 times"),
        ("(box classification | motion identity)", r"found '\)' 'the end' .*; expected `\)@N`"),
        ("(box classification | motion identity@2", r"expected `\)@N`"),
        ("(box classification | )@2", r"found '\)' in .*; expected a task"),
        ("(box classification | motion identity)@2 @3", "found '@3' after the end of the tree"),
        (
            "((box | classification)@1 | motion identity)@2",
            "after 1 stages within a branch that parted after 2",
        ),
    ],
)
def test_trees_that_cannot_be_are_named(tree, message):
    with pytest.raises(UserError, match=f"model.sharing.tree.*{message}"):
        parse_tree(tree, TASKS)
