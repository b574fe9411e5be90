"""A DICOM node: films in by C-STORE, answers out. Killed at any moment, it resumes where it was."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from pneumo_hf.data.processes import Pool, TooSlowError
from pneumo_hf.errors import NO_ROOM
from pneumo_hf.pacs.answering import Answering
from pneumo_hf.pacs.disk_queue import DiskQueue
from pneumo_hf.pacs.network import Settings
from pneumo_hf.pacs.receiver import Receiver
from pneumo_hf.pacs.screening import Screened, screen_file
from pneumo_hf.pacs.sender import Sender

logger = logging.getLogger(__name__)
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # what matters is logged here, without names

LONGEST = 60.0  # seconds to read a film
POLL = 1.0  # seconds
FULL_DISK_PAUSE = 30.0  # seconds


class Node:
    """A node that runs until it is stopped: threads that receive, one that scores, one that sends.

    Raises:
        InputError: another node has its folder, its port is in use, or a file for TLS cannot be read.
    """

    def __init__(self, answering: Answering, settings: Settings):
        self.answering, self.dry_run = answering, settings.dry_run
        self.stop, self.counts, self.refused = threading.Event(), Counter(), Counter()
        self.failed: BaseException | None = None
        self.queue = DiskQueue(settings.folder, settings.most)
        self.sender = Sender(self.queue, settings)
        self.receiver = Receiver(self.queue, settings, self.counts, self.refused)
        self.pool = Pool(1, LONGEST)

    def run(self) -> None:
        """Answer films until `stop`; what waits then waits for the next start."""
        work = [self._score_all] if self.dry_run else [self._score_all, lambda: self.sender.run(self.stop)]
        threads = [threading.Thread(target=self._guarded, args=(part,)) for part in work]
        for thread in threads:
            thread.start()
        while not self.stop.wait(POLL):
            pass
        self.receiver.stop()
        self.sender.wake.set()
        for thread in threads:
            thread.join()
        self.pool.end()
        self.queue.close()
        logger.info("stopped: %s", self.summary())
        if self.failed:
            raise self.failed

    def summary(self) -> str:
        """Say how many films were received, scored, answered and refused since the start, and how many wait."""
        counts = {**self.counts, "answers taken": self.sender.sent, "waiting": len(self.queue)}
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.refused.most_common())
        counts["refused"] = self.refused.total()
        return ", ".join(f"{name} {count}" for name, count in counts.items()) + (f" ({reasons})" if reasons else "")

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do a thread's work; an error that nobody foresaw ends the node, which loses nothing by it."""
        try:
            work()
        except BaseException as error:
            self.failed = error
            self.stop.set()

    def _score_all(self) -> None:
        while not self.stop.is_set():
            uid = self.queue.take(POLL)
            if uid is not None:
                try:
                    self._score(uid)
                except OSError as error:
                    if error.errno not in NO_ROOM:
                        raise
                    logger.warning("%s: the disk is full, so its answer waits", uid)
                    self.queue.put_back(uid)
                    self.stop.wait(FULL_DISK_PAUSE)

    def _score(self, uid: str) -> None:
        """Score a film and keep its answer for the sender, or refuse it."""
        start = time.perf_counter()
        try:
            screened = self.pool.call(screen_file, str(self.queue.film(uid)))
        except TooSlowError as error:
            screened = Screened(None, reason=str(error))
        if screened.header is None or screened.film is None:
            return self._refuse(uid, screened.reason)
        answer = self.answering.score(screened.film)
        documents = self.answering.documents(screened.header, screened.film, answer)
        if not documents:
            return self._refuse(uid, f"not a chest film: {answer['error']}")
        self.counts["scored"] += 1
        what = f"{answer['prediction']} {answer['probability']:.4f} {answer['flag']}".strip()
        logger.info("%s: %s, in %.2f s", uid, what, time.perf_counter() - start)
        if self.dry_run:
            self.queue.remove(uid)
        else:
            self.queue.answer(uid, documents)
            self.sender.wake.set()

    def _refuse(self, uid: str, reason: str) -> None:
        self.refused[reason] += 1
        logger.info("%s: refused, %s", uid, reason)
        self.queue.remove(uid)
