"""Films come in by C-STORE, from callers that are known: what is taken is on the disk before it is acknowledged."""

import logging
from collections import Counter

from pydicom.uid import AllTransferSyntaxes, DeflatedExplicitVRLittleEndian, RLELossless, UncompressedTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from pneumo_hf.errors import InputError
from pneumo_hf.imaging.decoders import PLUGIN_OF
from pneumo_hf.pacs.disk_queue import DiskQueue, OtherFilmError, QueueFullError
from pneumo_hf.pacs.network import Settings
from pneumo_hf.pacs.screening import CLASSES, is_uid

logger = logging.getLogger(__name__)

SUCCESS, FULL, DUPLICATE, BAD_UID, FAILURE = 0x0000, 0xA700, 0x0111, 0x0117, 0x0110  # status of C-STORE, PS3.7
UNKNOWN_CALLER = 0x01, 0x01, 0x03  # rejected for good, by the user of the service: calling AE title not recognised
ASSOCIATIONS = 20  # at a time
PATIENCE = 60.0  # seconds without a word
READABLE = [*UncompressedTransferSyntaxes, DeflatedExplicitVRLittleEndian, RLELossless, *PLUGIN_OF]


class Receiver:
    """The server of a node: C-ECHO, and C-STORE of any kind of object, so that whole studies can be forwarded.

    Films go to the queue. Of what can be no film, by its SOP class, nothing is kept: it is logged and counted.

    Args:
        settings: of the node. counts: of "received" and "callers refused". refused: of what is refused, by reason.

    Raises:
        InputError: the port cannot be used, or a file for TLS cannot be read.
    """

    def __init__(self, queue: DiskQueue, settings: Settings, counts: Counter, refused: Counter):
        self.queue, self.callers, self.counts, self.refused = queue, settings.callers, counts, refused
        self.ae = AE(settings.title)
        self.ae.require_called_aet = True
        self.ae.maximum_associations = ASSOCIATIONS
        self.ae.acse_timeout = self.ae.dimse_timeout = self.ae.network_timeout = PATIENCE
        self.ae.add_supported_context(Verification)
        for stored in AllStoragePresentationContexts:
            syntaxes = READABLE if stored.abstract_syntax in CLASSES else AllTransferSyntaxes
            self.ae.add_supported_context(stored.abstract_syntax, list(dict.fromkeys(syntaxes)))
        handlers = [(evt.EVT_REQUESTED, self._let_in), (evt.EVT_C_STORE, self._store)]
        context = settings.tls.context(server=True) if settings.tls else None
        try:
            self.ae.start_server(settings.address, block=False, ssl_context=context, evt_handlers=handlers)
        except OSError as error:
            host, port = settings.address
            raise InputError(f"port {port} of {host} cannot be used: {error.strerror}") from error

    def stop(self) -> None:
        """End every association and stop listening."""
        self.ae.shutdown()

    def _let_in(self, event: evt.Event) -> None:
        """Reject a caller that is not known by both AE title and address."""
        title, address = str(event.assoc.requestor.primitive.calling_ae_title), event.assoc.requestor.address
        if (title, address) not in self.callers:
            self.counts["callers refused"] += 1
            logger.warning("refused a caller that is not allowed: %r from %s", title, address)
            event.assoc.acse.send_reject(*UNKNOWN_CALLER)
            event.assoc.kill()

    def _store(self, event: evt.Event) -> int:
        """Take an object; return the status of the answer."""
        uid, sop_class = event.request.AffectedSOPInstanceUID, event.request.AffectedSOPClassUID
        if not is_uid(uid):
            logger.warning("refused an object whose UID is none")
            return BAD_UID
        self.counts["received"] += 1
        if sop_class not in CLASSES:
            reason = f"no film: {sop_class.name}"
            self.refused[reason] += 1
            logger.info("%s: refused, %s", uid, reason)
            return SUCCESS
        try:
            self.queue.put(uid, event.encoded_dataset())
        except QueueFullError:
            logger.warning("%s: not taken, the queue or its disk is full", uid)
            return FULL
        except OtherFilmError:
            logger.warning("%s: not taken, another film of this UID waits", uid)
            return DUPLICATE
        except OSError as error:
            logger.error("%s: not taken, %s", uid, error.strerror)
            return FAILURE
        return SUCCESS
