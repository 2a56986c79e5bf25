"""Sign a command away from the cluster, with PyNaCl and the standard library alone: meshos is not imported.

    python offline_sign.py show FILE
    python offline_sign.py sign FILE --key KEYFILE

FILE is an envelope, as bytes or as armoured text; a signature is added in the same form. KEYFILE is what
`OperatorKey.save` wrote. The bytes of both are in docs/authority.md.
"""

import argparse
import base64
import getpass
import hashlib
import os
import struct
import sys
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unicodedata import normalize

from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox
from nacl.signing import SigningKey, VerifyKey

FORMS = {b"meshos.admin.v1\0": "MESHOS ADMIN ENVELOPE", b"meshos.ice.v1\0": "MESHOS ICE ENVELOPE"}
EVENTS = [
    "enter_maintenance",
    "exit_maintenance",
    "drain",
    "cordon",
    "uncordon",
    "restart_all_daemons",
    "clear_avoid_list",
    "drop_replicas",
    "invalidate_placement",
]
ACTIONS = [
    "freeze_cluster",
    "thaw_cluster",
    "flush_avoid_lists",
    "force_evict_replica",
    "force_restart_daemon",
    "force_cutover",
    "kill_migration",
]
WARNINGS = [
    "ordinary commands are refused while the cluster is frozen",
    "what waited during the freeze begins",
    "there is no freeze to end",
    "a peer that is still slow is put back on the lists",
    "other nodes keep their lists",
    "the peer may get new work again",
    "the chain's cooldown does not hold the eviction up",
    "nothing is known of the chain",
    "the victim has no copy of the chain",
    "the daemon's backoff does not hold the restart up",
    "nothing is known of the daemon",
    "the daemon is not held up by a backoff",
    "no scorer is asked",
    "nothing is known of the chain",
    "the target has a copy already",
    "moves of other nodes are not visible",
]


class Refused(Exception):
    """The file is not what it should be."""


class Reader:
    """Takes bytes apart, and nothing is left over at the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise Refused(f"byte {self.at}: {size} bytes are missing")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str = "Q") -> int:
        (found,) = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))
        return int(found)

    def numbers(self) -> list[int]:
        return [self.number() for _ in range(self.number("I"))]

    def option(self) -> int | None:
        mark = self.number("B")
        if mark > 1:
            raise Refused(f"byte {self.at - 1}: neither there nor absent")
        return self.number() if mark else None

    def part(self) -> bytes:
        return self.take(self.number("I"))

    def text(self) -> str:
        return self.part().decode()

    def one_of(self, names: list[str]) -> str:
        tag = self.number("B")
        if not 1 <= tag <= len(names):
            raise Refused(f"byte {self.at - 1}: unknown tag {tag}")
        return names[tag - 1]

    def end(self) -> None:
        if self.at != len(self.data):
            raise Refused(f"byte {self.at}: {len(self.data) - self.at} bytes too many")


@dataclass
class Envelope:
    """What a file holds."""

    label: str
    armoured: bool
    signed: bytes
    blast: bytes
    signatures: list[tuple[bytes, bytes]]
    says: list[str]


# ---------------------------------------------------------------- reading


def read(data: bytes) -> Envelope:
    lines = data.decode("ascii").split() if data.lstrip().startswith(b"-----BEGIN ") else []
    if lines:
        # Each mark is four words: dashes and the verb, then the label, whose last word has dashes.
        marks, body = (" ".join(lines[:4]), " ".join(lines[-4:])), "".join(lines[4:-4])
        data = base64.b64decode(body, validate=True)
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise Refused("the sum at the end does not fit: the file was cut or changed")
    file = Reader(data[:-4])
    if file.take(5) != b"MOSE\x01":
        raise Refused("this is no envelope of version 1")
    signed, blast = file.part(), file.part()
    signatures = [(file.take(32), file.take(64)) for _ in range(file.number("I"))]
    file.end()
    domain = next((domain for domain in FORMS if signed.startswith(domain)), b"")
    if not domain:
        raise Refused("what is signed is neither an ordinary command nor a break-glass action")
    label, ice = FORMS[domain], domain.startswith(b"meshos.ice")
    if lines and marks != (f"-----BEGIN {label}-----", f"-----END {label}-----"):
        raise Refused(f"the lines around it do not say {label}")
    return Envelope(label, bool(lines), signed, blast, signatures, says(signed[len(domain) :], blast, ice))


def says(signed: bytes, blast: bytes, ice: bool) -> list[str]:
    """Say in words what is signed."""
    head = Reader(signed)
    if head.number("B") != 1:
        raise Refused("another version of what is signed")
    cluster, envelope_id = head.take(32).hex(), head.take(16).hex()
    issued, not_after = moment(head.number()), moment(head.number())
    threshold = head.number("B") if ice else 1
    if ice and head.take(32) != hashlib.sha256(b"meshos.blast.v1\0" + blast).digest():
        raise Refused("the preview beside it is not the one that is signed")
    order = Reader(head.part())
    lines = action(order) if ice else event(order)
    order.end()
    reason = head.text()
    head.end()
    lines += [f"reason:    {plain(reason)}", f"cluster:   SHA-256 {cluster}", f"envelope:  {envelope_id}"]
    lines += [f"issued:    {issued}", f"good till: {not_after}", f"must sign: {threshold} or more"]
    return lines + (preview(Reader(blast)) if ice else [])


def event(order: Reader) -> list[str]:
    kind = order.one_of(EVENTS)
    lines = [f"COMMAND    {kind} on node {order.number()}"]
    if kind == "enter_maintenance":
        within = order.option()
        lines += [] if within is None else [f"within:    {span(within)}"]
    elif kind == "drain":
        lines.append(f"within:    {span(order.number())}")
    elif kind == "drop_replicas":
        lines.append(f"chains:    {shown(order.numbers())}")
    return lines


def action(order: Reader) -> list[str]:
    kind = order.one_of(ACTIONS)
    match kind:
        case "freeze_cluster":
            about = f"for {span(order.number())}"
        case "flush_avoid_lists":
            scope = order.one_of(["of node {}", "of peer {} on every node", "all of them"])
            about = scope.format(order.number()) if "{}" in scope else scope
        case "force_evict_replica":
            about = f"of chain {order.number()} from node {order.number()}"
        case "force_restart_daemon":
            about = f"of daemon {order.number()} ({plain(order.text())})"
        case "force_cutover":
            about = f"of chain {order.number()} to node {order.number()}"
        case "kill_migration":
            about = f"of daemon {order.number()}"
        case _:
            about = ""
    return [f"BREAK GLASS  {kind} {about}".rstrip()]


def preview(blast: Reader) -> list[str]:
    """Say what the action will touch."""
    if blast.number("B") != 1:
        raise Refused("another version of the preview")
    lines = [f"nodes:     {shown(blast.numbers())}", f"chains:    {shown(blast.numbers())}"]
    daemons = [f"{blast.number()} ({plain(blast.text())})" for _ in range(blast.number("I"))]
    lines.append(f"daemons:   {', '.join(daemons) or 'none'}")
    delay, churn = blast.option(), blast.number("I")
    lines += [] if delay is None else [f"lasts:     {span(delay)}"]
    lines += [f"churn:     {churn / 100:g} % of placements"] if churn else []
    for _ in range(blast.number("I")):
        warning = blast.one_of(WARNINGS)
        ids = [blast.number() for _ in range(blast.number("B"))]
        lines.append(f"WARNING    {warning}" + (f": {shown(ids)}" if ids else ""))
    blast.end()
    return lines


def plain(text: str) -> str:
    """Foreign text, without anything that a terminal would obey."""
    return repr(text)


def shown(ids: list[int]) -> str:
    return ", ".join(map(str, ids)) or "none"


def span(milliseconds: int) -> str:
    return f"{milliseconds} ms" if milliseconds % 1000 else f"{milliseconds // 1000} s"


def moment(milliseconds: int) -> str:
    try:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds} ms after 1970"
    return at.isoformat(sep=" ", timespec="milliseconds")


def operator_id(key: VerifyKey) -> str:
    digest = hashlib.sha256(b"meshos.operator.v1\0" + bytes(key)).digest()
    return f"{int.from_bytes(digest[:8], 'little'):016x}"


def show(envelope: Envelope) -> None:
    for line in envelope.says:
        print(line)
    for public_key, signature in envelope.signatures:
        key = VerifyKey(public_key)
        try:
            key.verify(envelope.signed, signature)
            print("signed by:", operator_id(key))
        except CryptoError:
            print("NOT SIGNED by", operator_id(key), "whose signature does not fit")


# ---------------------------------------------------------------- signing


def load(path: Path) -> SigningKey:
    """Read a key file."""
    data = path.read_bytes()
    if len(data) < 74 or data[:5] != b"MOSK\x01" or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise Refused("this is no key file of version 1")
    sealed, public_key, body = data[5], data[6:38], data[38:-4]
    if sealed:
        passes, memory, salt, nonce = struct.unpack_from("<QQ16s24s", body)
        secret = normalize("NFC", getpass.getpass("passphrase: ")).encode()
        box = SecretBox(argon2id.kdf(32, secret, salt, opslimit=passes, memlimit=memory))
        body = box.decrypt(body[56:], nonce)
    key = SigningKey(body)
    if bytes(key.verify_key) != public_key:
        raise Refused("the halves of the key do not belong together")
    return key


def agreed(key: SigningKey, yes: bool) -> bool:
    """Ask, where there is somebody to ask."""
    if not sys.stdin.isatty():
        return yes
    print(f"Type YES to sign this as operator {operator_id(key.verify_key)}: ", end="", file=sys.stderr, flush=True)
    return input() == "YES"


def sign(envelope: Envelope, key: SigningKey) -> bytes:
    """Add a signature, and write the whole anew."""
    mine = bytes(key.verify_key), key.sign(envelope.signed).signature
    # An ordinary command has one signature.
    kept = envelope.signatures if "ICE" in envelope.label else []
    others = [other for other in kept if other != mine]
    data = b"MOSE\x01" + b"".join(struct.pack("<I", len(part)) + part for part in (envelope.signed, envelope.blast))
    data += struct.pack("<I", len(others) + 1) + b"".join(part for pair in [*others, mine] for part in pair)
    data += struct.pack("<I", zlib.crc32(data))
    if not envelope.armoured:
        return data
    body = base64.b64encode(data).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {envelope.label}-----", *lines, f"-----END {envelope.label}-----", ""]).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", nargs="?", choices=["show", "sign"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--key", type=Path, help="the key file to sign with")
    parser.add_argument("--yes", action="store_true", help="sign without being asked, where there is no terminal")
    given = parser.parse_args()
    if given.verb is None:
        parser.print_help()
        return 0
    if given.file is None or (given.verb == "sign" and given.key is None):
        parser.error("show wants FILE, and sign wants FILE and --key")
    try:
        envelope = read(given.file.read_bytes())
        show(envelope)
        if given.verb == "show":
            return 0
        key = load(given.key)
        if not agreed(key, given.yes):
            print("not signed", file=sys.stderr)
            return 8
        draft = given.file.with_name(f"{given.file.name}.{os.getpid()}")
        draft.write_bytes(sign(envelope, key))
        draft.replace(given.file)
        print("signed by:", operator_id(key.verify_key))
    except CryptoError:
        print("refused: a wrong passphrase", file=sys.stderr)
        return 1
    except (Refused, OSError, ValueError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
