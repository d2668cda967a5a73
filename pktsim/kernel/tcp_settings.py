"""The settings of TCP: Linux 6.18's defaults, changed by sysctl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from pktsim.errors import UnsupportedFeature

_PREFIX = "net.ipv4.tcp_"
#: What each sysctl's value must be, because other values would put other frames on the wire than are modelled.
FIXED = {
    "net.ipv4.tcp_congestion_control": ("reno",),
    "net.ipv4.tcp_ecn": ("2", "0"),  # 2: only on the peer's request
    "net.ipv4.tcp_mtu_probing": ("0",),
    "net.ipv4.tcp_fastopen": ("0", "1"),  # 1: only for programs that ask for it
}
#: Settings that are no integers of ours and change nothing on the wire.
IGNORED = frozenset({"net.ipv4.tcp_mem", "net.ipv4.tcp_no_metrics_save"})


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """Each attribute is the sysctl ``net.ipv4.tcp_NAME``. Time-outs are in seconds where the sysctl is.

    ``rmem`` and ``wmem`` are (minimum, initial, maximum) bytes; the maximum of ``rmem`` decides the window scale, and
    is 32 MiB since Linux 6.16.
    """

    rmem: tuple[int, int, int] = (4096, 131072, 33554432)
    wmem: tuple[int, int, int] = (4096, 16384, 4194304)
    timestamps: int = 1
    sack: int = 1
    window_scaling: int = 1
    ecn: int = 2
    syn_retries: int = 6
    synack_retries: int = 5
    syn_linear_timeouts: int = 4
    retries1: int = 3
    retries2: int = 15
    orphan_retries: int = 0
    fin_timeout: int = 60
    keepalive_time: int = 7200
    keepalive_probes: int = 9
    keepalive_intvl: int = 75
    max_syn_backlog: int = 4096
    pingpong_thresh: int = 1
    app_win: int = 31
    early_retrans: int = 3
    rto_min_us: int = 200_000
    rto_max_ms: int = 120_000
    frto: int = 2
    dsack: int = 1
    retrans_collapse: int = 1
    max_reordering: int = 300
    min_tso_segs: int = 2
    limit_output_bytes: int = 4_194_304
    tso_rtt_log: int = 9
    pacing_ss_ratio: int = 200
    pacing_ca_ratio: int = 120
    comp_sack_delay_ns: int = 1_000_000
    comp_sack_slack_ns: int = 100_000
    comp_sack_nr: int = 44
    thin_linear_timeouts: int = 0
    tw_reuse_delay: int = 1000
    tso_win_divisor: int = 3
    invalid_ratelimit_ms: int = 500
    challenge_ack_limit: int = 0x7FFFFFFF
    slow_start_after_idle: int = 1
    moderate_rcvbuf: int = 1
    reordering: int = 3
    min_snd_mss: int = 48
    tw_reuse: int = 2
    rfc1337: int = 0
    abort_on_overflow: int = 0

    @classmethod
    def from_sysctls(cls, sysctls: Mapping[str, str]) -> TcpSettings:
        """Read the ``net.ipv4.tcp_*`` among ``sysctls``; others are not for us.

        Raises:
            UnsupportedFeature: A value, or a setting, that is not modelled.
        """
        settings = cls()
        known = {field.name for field in fields(cls)} - {"invalid_ratelimit_ms", "ecn"}
        for key in sorted(sysctls):
            value = str(sysctls[key])
            if not key.startswith(_PREFIX) or key in IGNORED:
                continue
            if key in FIXED:
                if value not in FIXED[key]:
                    raise UnsupportedFeature(f"{key} = {value}", mend=f"use {' or '.join(FIXED[key])}")
                if key == "net.ipv4.tcp_ecn":
                    settings = replace(settings, ecn=int(value))
                continue
            name = key[len(_PREFIX) :]
            if name == "invalid_ratelimit":
                settings = replace(settings, invalid_ratelimit_ms=int(value))
            elif name in ("rmem", "wmem"):
                low, middle, high = (int(part) for part in value.split())
                settings = replace(settings, **{name: (low, middle, high)})  # type: ignore[arg-type]
            elif name in known:
                settings = replace(settings, **{name: int(value)})  # type: ignore[arg-type]
            else:
                raise UnsupportedFeature(f"sysctl {key}")
        return settings
