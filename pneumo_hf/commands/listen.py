"""`pneumo-hf listen`: a DICOM node beside a PACS."""

import argparse
import logging
import signal
from pathlib import Path

from pneumo_hf.commands import add_model_arguments

logger = logging.getLogger(__name__)

HELP = "receive films from a PACS, send structured reports back"
DESCRIPTION = (
    "A DICOM node: takes films by C-STORE, and sends each frontal chest film of DX, CR or RG a structured report back "
    "(TID 1500; research use only, not a diagnosis). Others are refused, with the reason in the log. A film is on the "
    "disk before it is acknowledged, and deleted once its report is taken: a node that is killed loses none and "
    "answers none twice. SIGTERM or Ctrl-C stops it."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_arguments(parser)
    parser.add_argument("--ae_title", default="PNEUMO", help="the node's own AE title (default: %(default)s)")
    parser.add_argument("--host", default="0.0.0.0", help="the address it listens on (default: %(default)s, all)")
    parser.add_argument("--port", type=int, default=11112, help="(default: %(default)s)")
    parser.add_argument(
        "--send_to", required=True, metavar="AE@HOST:PORT", help="who gets the reports, the PACS as a rule"
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        metavar="AE@ADDRESS",
        help="who may send films: AE title and address, network (10.1.2.0/24) or host (default: who gets the reports)",
    )
    parser.add_argument(
        "--queue_dir", default="queue", metavar="DIR", help="where films wait on the disk (default: %(default)s)"
    )
    parser.add_argument(
        "--tls",
        nargs=3,
        metavar=("CERTIFICATE", "KEY", "AUTHORITY"),
        help="PEM files: TLS in both directions, with certificates that the authority has signed on both sides",
    )
    parser.add_argument("--heatmap", action="store_true", help="send the film under its Grad-CAM heatmap, too")
    parser.add_argument("--dry_run", action="store_true", help="score and log, and send nothing")


def run(arguments: argparse.Namespace) -> None:
    """Answer films until the node is stopped."""
    from pneumo_hf.evaluation.ensembles import load_predictor
    from pneumo_hf.pacs.answering import Answering
    from pneumo_hf.pacs.network import Callers, Peer, Settings, Tls, title
    from pneumo_hf.pacs.node import Node

    peer = Peer.parse(arguments.send_to)
    callers = Callers(arguments.allow or [f"{peer.title}@{peer.host}"])
    settings = Settings(
        title=title(arguments.ae_title),
        address=(arguments.host, arguments.port),
        send_to=peer,
        callers=callers,
        folder=Path(arguments.queue_dir),
        tls=Tls(*map(Path, arguments.tls)) if arguments.tls else None,
        dry_run=arguments.dry_run,
    )
    scorer = load_predictor(arguments.model, arguments.device, arguments.flip, arguments.backend)
    if arguments.operating_point:
        scorer.settings.use(arguments.operating_point)
    node = Node(Answering(scorer, arguments.heatmap), settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.stop.set())
    allowed = ", ".join(callers.texts)
    logger.info("%s listens on port %d; films from %s, reports to %s", settings.title, arguments.port, allowed, peer)
    logger.info("%d films wait from before", len(node.queue))
    node.run()
