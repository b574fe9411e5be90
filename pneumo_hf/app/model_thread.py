"""The one thread in which the app calls the network; requests that wait there are scored together."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, wraps
from queue import Empty, SimpleQueue

from pneumo_hf.inference.scorer import Decoded, Scorer

ON_ZERO_GPU = bool(os.environ.get("SPACES_ZERO_GPU"))  # which is there for the length of a call
MOST_AT_ONCE = 16  # films that are scored as one batch

_thread = ThreadPoolExecutor(1)


def in_model_thread(function: Callable) -> Callable:
    """Wrap the function, always run in the same thread; never call one such function from another.

    torch keeps a pool of its own for every thread that calls it: gradio's forty would each leave theirs in memory.
    On a Space with ZeroGPU the call gets its GPU instead, in a process of its own.
    """
    if ON_ZERO_GPU:
        import spaces

        return spaces.GPU(function)

    @wraps(function)
    def run(*arguments, **options):
        return _thread.submit(function, *arguments, **options).result()

    return run


@cache
def scoring(predictor: Scorer) -> Callable[[list], list[dict]]:
    """Return what scores films by a predictor; made once, for on ZeroGPU it keeps a process that has the network.

    There, what a call is given travels to that process: films can, a network on a GPU cannot.
    """
    return in_model_thread(lambda films: predictor(films))


class Together:
    """Scores single films for many callers at once: those that wait while a batch is scored are the next batch.

    (gradio's own batches fail as one where a single request in them is malformed.)
    """

    def __init__(self, predictor: Scorer):
        self.predictor, self.waiting = predictor, SimpleQueue()

    def __call__(self, film: Decoded) -> dict:
        """A result of `Predictor` for a decoded film; blocks until it is there."""
        if film[1] is None:
            return self.predictor.unread(film[0]["error"])
        answer: Future = Future()
        self.waiting.put((film, answer))
        _thread.submit(self._score_waiting)  # for as many as wait then; for none, if an earlier one took them
        return answer.result()

    def _score_waiting(self) -> None:
        films, answers = [], []
        while len(films) < MOST_AT_ONCE:
            try:
                film, answer = self.waiting.get_nowait()
            except Empty:
                break
            films.append(film)
            answers.append(answer)
        if not films:
            return
        try:
            for answer, row in zip(answers, self.predictor.score_batch(films), strict=True):
                answer.set_result({key: row[key] for key in self.predictor.unread("")})
        except Exception as error:  # theirs to hear, whatever it is: they wait
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
