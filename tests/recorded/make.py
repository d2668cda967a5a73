"""Collect recordings of real systems into the compact copies beside this file.

    python tests/recorded/make.py REFERENCE_DIR

``REFERENCE_DIR`` holds the recordings (``kube-proxy/iptables/CASE/…``); each archive here is one kind, made anew.
The same recordings give the same bytes.
"""

from __future__ import annotations

import gzip
import io
import lzma
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
#: What the name of a file ends in that was compressed.
UNZIPPED = ".unzipped"

#: Archive name -> where its recordings lie below the reference directory.
KINDS: dict[str, str] = {
    "cluster-book": "cluster/book",
    "cluster-host-gw": "cluster/host-gw",
    "cluster-host-gw-ipv6": "cluster/host-gw-ipv6",
    "cluster-host-gw-no-brnf": "cluster/host-gw-no-brnf",
    "cluster-point-to-point": "cluster/point-to-point",
    "cluster-vxlan": "cluster/vxlan",
    "dns": "dns",
    "kube-proxy-iptables": "kube-proxy/iptables",
    "kube-proxy-iptables-updates": "kube-proxy-updates/iptables-updates",
    "kube-proxy-nftables": "kube-proxy/nftables",
    "netfilter-cases": "netfilter/cases",
    "netfilter-random": "netfilter/random",
}

#: Single files -> where they lie below the reference directory; small enough to be kept as they are.
FILES: dict[str, str] = {
    "netfilter-distributions.json": "netfilter/distributions.json",
}


def archive(source: Path) -> bytes:
    """All files below ``source``, in order of their names, without dates or owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                data, name = path.read_bytes(), path.relative_to(source).as_posix()
                if path.suffix == ".gz":
                    # Compressed together they take a third; ``archives.unpack`` compresses them again.
                    data, name = gzip.decompress(data), name + UNZIPPED
                member = tarfile.TarInfo(name)
                member.size = len(data)
                member.mode = 0o644
                tar.addfile(member, io.BytesIO(data))
    return lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def main(reference: Path) -> None:
    """Make every archive and copy whose recordings are there."""
    for name, below in FILES.items():
        if not (reference / below).is_file():
            print(f"{name}: no {reference / below}, left as it is")
            continue
        data = (reference / below).read_bytes()
        (HERE / name).write_bytes(data)
        print(f"{name}: {len(data)} bytes")
    for name, below in KINDS.items():
        source = reference / below
        if not source.is_dir():
            print(f"{name}: no {source}, left as it is")
            continue
        data = archive(source)
        (HERE / f"{name}.tar.xz").write_bytes(data)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/recorded/make.py REFERENCE_DIR")
    main(Path(sys.argv[1]))
