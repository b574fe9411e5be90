"""Answers go out by C-STORE: again and again, with longer pauses, until the receiver has taken them."""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, Association
from pynetdicom.sop_class import ComprehensiveSRStorage, SecondaryCaptureImageStorage, Verification

from pneumo_hf.pacs.disk_queue import DiskQueue
from pneumo_hf.pacs.network import Settings

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds between two attempts
PATIENCE = 30.0  # seconds for a connection and for each answer
DUPLICATE = 0x0111  # the receiver has this very instance, from before a kill


class Sender:
    """Sends the answers in a queue to one receiver.

    An answer that the receiver refuses is tried again later, and holds up no other.

    Args:
        settings: of the node.
    """

    def __init__(self, queue: DiskQueue, settings: Settings):
        self.queue, self.peer = queue, settings.send_to
        self.tls = (settings.tls.context(server=False), self.peer.host) if settings.tls else None
        self.ae = AE(settings.title)
        for sop_class in (ComprehensiveSRStorage, SecondaryCaptureImageStorage, Verification):
            self.ae.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        self.ae.acse_timeout = self.ae.dimse_timeout = self.ae.network_timeout = PATIENCE
        self.ae.connection_timeout = PATIENCE
        self.wake, self.sent = threading.Event(), 0
        self.next_try: dict[str, tuple[float, float]] = {}  # of each refused answer: when, and the pause before

    def run(self, stop: threading.Event) -> None:
        """Send what there is, until `stop`."""
        pause = 0.0
        while not stop.is_set():
            self.wake.clear()
            pause = 0.0 if self.send_all(stop) else min(max(FIRST_PAUSE, 2 * pause), LONGEST_PAUSE)
            if pause:
                stop.wait(pause)
            else:
                self.wake.wait(FIRST_PAUSE)

    def send_all(self, stop: threading.Event) -> bool:
        """Send every answer that is due, by one association; return whether the receiver could be reached."""
        now = time.monotonic()
        due = [uid for uid in self.queue.answered() if self.next_try.get(uid, (0, 0))[0] <= now]
        if not due:
            return True
        association = self.associate()
        if association is None:
            logger.warning("%s cannot be reached, or refuses: %d answers wait", self.peer, len(due))
            return False
        try:
            for uid in due:
                if stop.is_set():
                    break
                refused = self._send(association, self.queue.documents(uid))
                if not association.is_established:
                    logger.warning("%s broke off: its answers wait", self.peer)
                    return False
                self._note(uid, refused)
        finally:
            if association.is_established:
                association.release()
        return True

    def associate(self) -> Association | None:
        """Ask the receiver for an association, None where there is none."""
        association = self.ae.associate(self.peer.host, self.peer.port, ae_title=self.peer.title, tls_args=self.tls)
        return association if association.is_established else None

    def _send(self, association: Association, documents: Sequence[Path]) -> str:
        """Send the documents of an answer; return why it was refused, empty if it was not."""
        for document in documents:
            try:
                answer = association.send_c_store(document)
            except (ValueError, RuntimeError) as error:  # no context for it, or no association any more
                return str(error).splitlines()[0]
            status = answer.Status if "Status" in answer else None
            if status is None:
                return "no response"
            if status and status != DUPLICATE and status >> 12 != 0xB:  # 0xBxxx is a warning: it is stored
                return f"status 0x{status:04X}"
        return ""

    def _note(self, uid: str, refused: str) -> None:
        if not refused:
            self.queue.remove(uid)
            self.next_try.pop(uid, None)
            self.sent += 1
            logger.info("%s: the answer was taken by %s", uid, self.peer.title)
            return
        pause = min(2 * self.next_try.get(uid, (0.0, FIRST_PAUSE / 2))[1], LONGEST_PAUSE)
        self.next_try[uid] = time.monotonic() + pause, pause
        logger.warning("%s: %s refuses the answer (%s); again in %.0f s", uid, self.peer.title, refused, pause)
