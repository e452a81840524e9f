"""Verbs: how records of training and evaluation, which no plugin gives, are shown as tables and curves."""

from __future__ import annotations

from softbench.records.views import Lines, Rows, View

TRAIN, EVAL = "train", "eval"  # what these records call their measure
ABOUT = {TRAIN: "each epoch of each training.", EVAL: "accuracy of trained weights."}

WORDS = {"label": "arch", "top1": "top-1", "top5": "top-5", "loss": "val. loss", "top1_ema": "top-1 EMA",
         "top5_ema": "top-5 EMA", "loss_ema": "val. loss EMA", "train_loss": "train loss", "lr": "learning rate",
         "images_per_second": "speed", "samples_per_second": "speed", "peak_memory": "peak memory",
         "accuracy_ema": "accuracy EMA", "weights": "weights"}
_AVERAGED = "EMA: the averaged weights. Accuracies are shares of all answers on the validation split, 1 is all."

VIEWS: dict[str, list[View]] = {
    TRAIN: [
        Rows(name="epochs", title="train: each epoch, with accuracies over the whole validation split after it.",
             by=("label", "data", "epoch"), words=WORDS, note=_AVERAGED,
             quantities=("train_loss", "loss", "accuracy", "accuracy_ema", "top1", "top5", "top1_ema",
                        "images_per_second", "samples_per_second", "peak_memory")),
        Lines(name="accuracy", title="Share of validation answers that are right, after each epoch", x="epoch",
              quantities=("top1", "top1_ema", "accuracy", "accuracy_ema"), series="label", log_y=False, words=WORDS),
        Lines(name="loss", title="Loss over the training data of each epoch, and over the validation split after it",
              x="epoch", quantities=("train_loss", "loss"), series="label", log_y=False, words=WORDS),
        Lines(name="speed", title="Training speed, over each epoch", x="epoch",
              quantities=("images_per_second", "samples_per_second"), series="label", log_y=False, words=WORDS),
    ],
    EVAL: [
        Rows(name="scores", title="eval: accuracies over the whole validation split.", by=("label", "data", "weights"),
             quantities=("top1", "top5", "loss", "images_per_second"), words=WORDS,
             note="Accuracies are shares of the answers, 1 is all."),
    ],
}
