"""How good lists of new users are: existing users, folded in from their training items, beside their trained rows.

    python benchmarks/fold_in.py RUN… [--split test]

Both rank the same items with the same masks. Item rows were trained with these users' interactions, so this says what
leaving out the users' own trained rows costs, and not what an unseen population is worth. Prints a Markdown table.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from infodcl_dist.inference.evaluation import evaluate
from infodcl_dist.inference.folding import fold_in
from infodcl_dist.parallel.group import process_group
from infodcl_dist.recipe.run import open_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    given = parser.parse_args()
    print("| run | model | users' rows | recall@20 | ndcg@20 |\n| --- | --- | --- | --- | --- |")
    with process_group(timeout_s=600) as group:
        for run in given.runs:
            evaluator = open_run(run, group)
            train = evaluator.graph
            embeddings = evaluator.embeddings()
            folded = fold_in(embeddings, train.items_of_user, train.users_of_item.degrees)
            for name, made in (("trained", embeddings), ("folded in", replace(embeddings, users=folded))):
                truth = evaluator.valid if given.split == "valid" else evaluator.test
                means = evaluate(
                    made,
                    truth=truth,
                    masks=[train.items_of_user],
                    train=train,
                    config=evaluator.config.evaluation,
                    group=group,
                ).means
                model = evaluator.config.model
                print(
                    f"| {run.name} | {model.name}, K {model.gcn_layers} | {name} "
                    f"| {means['recall@20']:.4f} | {means['ndcg@20']:.4f} |"
                )


if __name__ == "__main__":
    main()
