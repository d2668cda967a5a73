# nft's sets and maps: elements by key in a hash, intervals in order for a binary search, and boxes (concatenations with
# intervals) by a bitmap for each field. Keys are bytes in network order, each field filled up to four bytes.

cdef inline uint8_t *set_key(const NftSetData *d, int32_t at) noexcept nogil:
    return d.blobs + <size_t>at * d.stride


cdef inline uint8_t *set_end(const NftSetData *d, int32_t at) noexcept nogil:
    return set_key(d, at) + d.key_size


cdef inline uint8_t *set_value(const NftSetData *d, int32_t at) noexcept nogil:
    return set_key(d, at) + (d.key_size if d.kind == SET_HASH else 2 * d.key_size)


cdef inline bint set_live(const NftSetData *d, int32_t at, int64_t now_ns) noexcept nogil:
    return d.elems[at].used and (d.elems[at].expires_ns == 0 or now_ns < d.elems[at].expires_ns)


cdef void set_free(NftSetData *d) noexcept nogil:
    cdef int i
    free(d.elems)
    free(d.blobs)
    free(d.states)
    free(d.index)
    for i in range(NFT_FIELDS_MAX):
        free(d.bounds[i])
        free(d.bitmaps[i])
    memset(d, 0, sizeof(NftSetData))


cdef void set_rehash(NftSetData *d) noexcept nogil:
    """A hash with room for twice the elements there are, without the traces of those that have gone."""
    cdef uint32_t n = 16, slot
    cdef int32_t i
    while n < 2 * <uint32_t>(d.n_used + 1):
        n *= 2
    free(d.index)
    d.index = <int32_t *>malloc(n * sizeof(int32_t))
    if d.index == NULL:
        abort()
    d.n_index = n
    for slot in range(n):
        d.index[slot] = -1
    for i in range(d.n_elems):
        if d.elems[i].used and not d.elems[i].catchall:
            slot = bytes_hash(set_key(d, i), d.key_size) & (n - 1)
            while d.index[slot] != -1:
                slot = (slot + 1) & (n - 1)
            d.index[slot] = i


cdef int32_t set_find_hash(const NftSetData *d, const uint8_t *key, int64_t now_ns) noexcept nogil:
    cdef uint32_t slot
    cdef int32_t at
    if d.n_index == 0:
        return -1
    slot = bytes_hash(key, d.key_size) & (d.n_index - 1)
    while True:
        at = d.index[slot]
        if at == -1:
            return -1
        if memcmp(set_key(d, at), key, d.key_size) == 0 and set_live(d, at, now_ns):
            return at
        slot = (slot + 1) & (d.n_index - 1)


cdef int32_t set_locate(const NftSetData *d, const uint8_t *key) noexcept nogil:
    """The element of a key in a hash, live or not."""
    cdef uint32_t slot
    if d.n_index == 0:
        return -1
    slot = bytes_hash(key, d.key_size) & (d.n_index - 1)
    while d.index[slot] != -1:
        if memcmp(set_key(d, d.index[slot]), key, d.key_size) == 0:
            return d.index[slot]
        slot = (slot + 1) & (d.n_index - 1)
    return -1


cdef int32_t set_find_interval(const NftSetData *d, const uint8_t *key, int64_t now_ns) noexcept nogil:
    """The last interval that begins at or before the key, if it does not end before it: they do not overlap."""
    cdef int32_t low = 0, high = <int32_t>d.n_index, middle, at
    while low < high:
        middle = (low + high) // 2
        if memcmp(set_key(d, d.index[middle]), key, d.key_size) <= 0:
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return -1
    at = d.index[low - 1]
    if memcmp(key, set_end(d, at), d.key_size) <= 0 and set_live(d, at, now_ns):
        return at
    return -1


cdef int32_t set_find_box(const NftSetData *d, const uint8_t *key, int64_t now_ns) noexcept nogil:
    """The first box that has every field: each field says by a bitmap which boxes have it."""
    cdef int32_t f, w, low, high, middle, at, offset = 0
    cdef uint64_t word
    cdef const uint64_t *maps[16]
    for f in range(d.n_fields):
        low = 0
        high = d.n_bounds[f]
        while low < high:
            middle = (low + high) // 2
            if memcmp(d.bounds[f] + <size_t>middle * d.field_size[f], key + offset, d.field_size[f]) <= 0:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return -1
        maps[f] = d.bitmaps[f] + <size_t>(low - 1) * d.n_words
        offset += d.field_size[f]
    for w in range(d.n_words):
        word = maps[0][w]
        for f in range(1, d.n_fields):
            word &= maps[f][w]
        at = 64 * w
        while word:
            if word & 1 and set_live(d, d.index[at], now_ns):
                return d.index[at]
            word >>= 1
            at += 1
    return -1


cdef int32_t set_find(const NftSetData *d, const uint8_t *key, int64_t now_ns) noexcept nogil:
    """The element of a key, or -1; the catch-all one is the caller's to ask for."""
    if d.kind == SET_HASH:
        return set_find_hash(d, key, now_ns)
    if d.n_index == 0:
        return -1
    if d.kind == SET_INTERVAL:
        return set_find_interval(d, key, now_ns)
    return set_find_box(d, key, now_ns)


cdef int32_t set_place(NftSetData *d) noexcept nogil:
    """A free place for an element, zeroed, its states as the template has them."""
    cdef int32_t at, i, cap
    for at in range(d.free_hint, d.n_elems):
        if not d.elems[at].used:
            break
    else:
        at = d.n_elems
        if d.n_elems == d.cap:
            cap = d.cap * 2 if d.cap else 16
            d.elems = <NftElem *>realloc(d.elems, <size_t>cap * sizeof(NftElem))
            d.blobs = <uint8_t *>realloc(d.blobs, <size_t>cap * d.stride)
            if d.n_states:
                d.states = <NftState *>realloc(d.states, <size_t>cap * d.n_states * sizeof(NftState))
            if d.elems == NULL or d.blobs == NULL or (d.n_states and d.states == NULL):
                abort()
            d.cap = cap
        d.n_elems += 1
    d.free_hint = at + 1
    memset(d.elems + at, 0, sizeof(NftElem))
    memset(set_key(d, at), 0, d.stride)
    for i in range(d.n_states):
        d.states[<size_t>at * d.n_states + i] = d.template[i]
    d.elems[at].used = 1
    d.n_used += 1
    return at


cdef void set_remove(NftSetData *d, int32_t at) noexcept nogil:
    """Forget an element. Its slot in the hash goes with the next rehash: nothing that is not live is found."""
    d.elems[at].used = 0
    d.n_used -= 1
    if at < d.free_hint:
        d.free_hint = at
    if d.catchall == at:
        d.catchall = -1
    if d.kind == SET_HASH:
        set_rehash_without(d, at)


cdef void set_rehash_without(NftSetData *d, int32_t gone) noexcept nogil:
    """Take an element out of the hash: those behind it in its run move up (Knuth 6.4, algorithm R)."""
    cdef uint32_t mask = d.n_index - 1
    cdef uint32_t hole, slot, home
    cdef int32_t at
    if d.n_index == 0:
        return
    hole = bytes_hash(set_key(d, gone), d.key_size) & mask
    while d.index[hole] != gone:
        if d.index[hole] == -1:
            return
        hole = (hole + 1) & mask
    d.index[hole] = -1
    slot = (hole + 1) & mask
    while d.index[slot] != -1:
        at = d.index[slot]
        home = bytes_hash(set_key(d, at), d.key_size) & mask
        if (slot - home) & mask >= (slot - hole) & mask:
            d.index[hole] = at
            d.index[slot] = -1
            hole = slot
        slot = (slot + 1) & mask


cdef int32_t set_insert_hash(NftSetData *d, const uint8_t *key) noexcept nogil:
    """A new element of a hash, which has none of this key that is live."""
    cdef int32_t at
    cdef uint32_t slot
    if 4 * <uint32_t>(d.n_used + 1) > 3 * d.n_index:
        set_rehash(d)
    at = set_place(d)
    memcpy(set_key(d, at), key, d.key_size)
    slot = bytes_hash(key, d.key_size) & (d.n_index - 1)
    while d.index[slot] != -1:
        slot = (slot + 1) & (d.n_index - 1)
    d.index[slot] = at
    return at


cdef void set_expire(NftSetData *d, int64_t now_ns) noexcept nogil:
    """Remove what has timed out, once a second (nft_rhash_gc)."""
    cdef int32_t i
    if d.next_gc_ns == 0 or now_ns < d.next_gc_ns:
        if d.next_gc_ns == 0:
            d.next_gc_ns = now_ns + 1000000000
        return
    d.next_gc_ns = now_ns + 1000000000
    d.n_dead = 0
    for i in range(d.n_elems):
        if d.elems[i].used and d.elems[i].expires_ns and now_ns >= d.elems[i].expires_ns:
            set_remove(d, i)


cdef bint state_eval(NftState *x, State *s, const Pkt *p) noexcept nogil:
    """Evaluate a stateful expression. False: the rule ends here (NFT_BREAK)."""
    cdef uint64_t size = p.end - p.l3
    cdef uint64_t tokens, cost
    cdef bint over
    if x.kind == STATE_COUNTER:
        x.a += 1
        x.b += size
        return True
    if x.kind == STATE_QUOTA:
        # nft_overquota
        x.a += size
        over = x.a > x.b
        return over == (x.invert != 0)
    if x.kind == STATE_LIMIT_PACKETS or x.kind == STATE_LIMIT_BYTES:
        # nft_limit_eval: a bucket of nanoseconds
        cost = x.c if x.kind == STATE_LIMIT_PACKETS else x.c * size // (x.d if x.d else 1)
        tokens = x.a + <uint64_t>(s.now_ns - x.last_ns)
        if tokens > x.b:
            tokens = x.b
        x.last_ns = s.now_ns
        if tokens >= cost:
            x.a = tokens - cost
            return x.invert == 0
        x.a = tokens
        return x.invert != 0
    return True


@cython.final
cdef class NftSet:
    """A set or map of one table in one namespace.

    Args:
        kind: 0 hash, 1 intervals, 2 concatenations with intervals.
        field_sizes: Bytes of each field of the key, filled up to four where it has several.
        data_size: Bytes of what elements lead to; 0 for a set.
        timeout_ns: Of elements that bring none; 0: none.
        size: How many elements it takes; 0: any number.
        states: What each element keeps: (kind, invert, a, b, c, d).
    """

    cdef NftSetData d

    def __cinit__(self, int kind, field_sizes, int data_size, int64_t timeout_ns=0, uint32_t size=0, states=()):
        cdef NftSetData *d = &self.d
        cdef int i
        sizes = list(field_sizes)
        if kind not in (SET_HASH, SET_INTERVAL, SET_BOXES) or not 0 < len(sizes) <= NFT_FIELDS_MAX:
            raise ValueError("a set is of kind 0 to 2 and has 1 to 16 fields")
        if min(sizes) <= 0 or sum(sizes) > NFT_KEY_MAX or not 0 <= data_size <= NFT_KEY_MAX or len(states) > NFT_STATES_MAX:
            raise ValueError("keys and data have at most 64 bytes, elements at most 4 states")
        d.kind = kind
        d.n_fields = len(sizes)
        for i in range(d.n_fields):
            d.field_size[i] = sizes[i]
        d.key_size = sum(sizes)
        d.data_size = data_size
        d.stride = d.key_size * (1 if kind == SET_HASH else 2) + data_size
        d.timeout_ns = timeout_ns
        d.size = size
        d.catchall = -1
        d.n_states = len(states)
        for i, (state, invert, a, b, c, e) in enumerate(states):
            d.template[i].kind = state
            d.template[i].invert = invert
            d.template[i].a = a
            d.template[i].b = b
            d.template[i].c = c
            d.template[i].d = e

    def __dealloc__(self):
        set_free(&self.d)

    @property
    def key_size(self):
        return self.d.key_size

    @property
    def data_size(self):
        return self.d.data_size

    def __len__(self):
        return self.d.n_used

    def add(self, bytes low, bytes high=None, bytes data=b"", int64_t timeout_ns=0, int64_t expires_ns=0, states=()):
        """An element that is not there. ``low`` None: the catch-all one. ``expires_ns`` is a time, 0: never."""
        cdef NftSetData *d = &self.d
        cdef int32_t at
        cdef int i
        if low is not None and len(low) != d.key_size or len(data) != d.data_size:
            raise ValueError("the key or the data has the wrong size")
        if d.kind != SET_HASH and low is not None and (high is None or len(high) != d.key_size):
            raise ValueError("an interval has two ends")
        if low is None:
            at = set_place(d)
            d.elems[at].catchall = 1
            d.catchall = at
        elif d.kind == SET_HASH:
            at = set_insert_hash(d, <const uint8_t *><const char *>low)
        else:
            at = set_place(d)
            memcpy(set_key(d, at), <const char *>low, d.key_size)
            memcpy(set_end(d, at), <const char *>high, d.key_size)
        if d.data_size:
            memcpy(set_value(d, at), <const char *>data, d.data_size)
        d.elems[at].timeout_ns = timeout_ns
        d.elems[at].expires_ns = expires_ns
        for i, (a, b, last_ns) in enumerate(states):
            if i < d.n_states:
                d.states[<size_t>at * d.n_states + i].a = a
                d.states[<size_t>at * d.n_states + i].b = b
                d.states[<size_t>at * d.n_states + i].last_ns = last_ns

    def delete(self, bytes low):
        """The element that begins there; None: the catch-all one. Returns whether there was one."""
        cdef NftSetData *d = &self.d
        cdef int32_t i
        if low is None:
            if d.catchall < 0:
                return False
            set_remove(d, d.catchall)
            return True
        if len(low) != d.key_size:
            raise ValueError("the key has the wrong size")
        if d.kind == SET_HASH:
            i = set_locate(d, <const uint8_t *><const char *>low)
            if i >= 0:
                set_remove(d, i)
            return i >= 0
        for i in range(d.n_elems):
            if d.elems[i].used and not d.elems[i].catchall and memcmp(set_key(d, i), <const char *>low, d.key_size) == 0:
                set_remove(d, i)
                return True
        return False

    def clear(self):
        cdef NftSetData *d = &self.d
        d.n_elems = 0
        d.n_used = 0
        d.n_dead = 0
        d.free_hint = 0
        d.catchall = -1
        if d.kind == SET_HASH:
            set_rehash(d)
        else:
            self.build()

    def build(self):
        """Put intervals in order, or boxes into bitmaps, after elements have been added or deleted."""
        cdef NftSetData *d = &self.d
        cdef int32_t i, n
        if d.kind == SET_HASH:
            return
        places = [i for i in range(d.n_elems) if d.elems[i].used and not d.elems[i].catchall]
        if d.kind == SET_INTERVAL:
            places.sort(key=self._low)
        n = len(places)
        free(d.index)
        d.n_index = n
        d.index = <int32_t *>malloc((n + 1) * sizeof(int32_t))
        if d.index == NULL:
            raise MemoryError
        for i in range(n):
            d.index[i] = places[i]
        if d.kind == SET_BOXES:
            self._build_bitmaps(n)

    def _low(self, int32_t at):
        return (<const char *>set_key(&self.d, at))[: self.d.key_size]

    cdef _build_bitmaps(self, int32_t n):
        cdef NftSetData *d = &self.d
        cdef int32_t f, i, k, first, last, offset = 0
        cdef bytes raw, low, high
        d.n_words = (n + 63) // 64
        # a box whose index is beyond the last one is none: the bitmap's last word is filled up with zeros only
        for f in range(d.n_fields):
            ends = []
            points = {b"\0" * d.field_size[f]}
            for i in range(n):
                raw = (<const char *>set_key(d, d.index[i]))[: 2 * d.key_size]
                low = raw[offset : offset + d.field_size[f]]
                high = raw[d.key_size + offset : d.key_size + offset + d.field_size[f]]
                ends.append((low, high))
                points.add(low)
                after = int.from_bytes(high, "big") + 1
                if after >> 8 * d.field_size[f] == 0:
                    points.add(after.to_bytes(d.field_size[f], "big"))
            ordered = sorted(points)
            number = {point: k for k, point in enumerate(ordered)}
            free(d.bounds[f])
            free(d.bitmaps[f])
            d.n_bounds[f] = len(ordered)
            d.bounds[f] = <uint8_t *>malloc(len(ordered) * d.field_size[f])
            d.bitmaps[f] = <uint64_t *>calloc(len(ordered) * d.n_words + 1, sizeof(uint64_t))
            if d.bounds[f] == NULL or d.bitmaps[f] == NULL:
                raise MemoryError
            for k, point in enumerate(ordered):
                memcpy(d.bounds[f] + k * d.field_size[f], <const char *>(<bytes>point), d.field_size[f])
            for i, (low, high) in enumerate(ends):
                first = number[low]
                after = int.from_bytes(high, "big") + 1
                last = len(ordered)
                if after >> 8 * d.field_size[f] == 0:
                    last = number[after.to_bytes(d.field_size[f], "big")]
                for k in range(first, last):
                    d.bitmaps[f][<size_t>k * d.n_words + i // 64] |= <uint64_t>1 << (i % 64)
            offset += d.field_size[f]

    def elements(self, int64_t now_ns):
        """(low, high, data, timeout_ns, expires_ns, states) of all that are live; ``low`` None: the catch-all one."""
        cdef NftSetData *d = &self.d
        cdef int32_t i
        cdef int k
        cdef NftState *x
        found = []
        for i in range(d.n_elems):
            if not set_live(d, i, now_ns):
                continue
            low = high = None
            if not d.elems[i].catchall:
                low = (<const char *>set_key(d, i))[: d.key_size]
                high = (<const char *>set_end(d, i))[: d.key_size] if d.kind != SET_HASH else low
            states = []
            for k in range(d.n_states):
                x = d.states + <size_t>i * d.n_states + k
                states.append((x.a, x.b, x.last_ns))
            data = (<const char *>set_value(d, i))[: d.data_size]
            found.append((low, high, data, d.elems[i].timeout_ns, d.elems[i].expires_ns, tuple(states)))
        return found

    def find(self, bytes key not None, int64_t now_ns):
        """The data of a key's element, or None."""
        cdef NftSetData *d = &self.d
        cdef int32_t at
        if len(key) != d.key_size:
            raise ValueError("the key has the wrong size")
        at = set_find(d, <const uint8_t *><const char *>key, now_ns)
        if at < 0 and d.catchall >= 0 and set_live(d, d.catchall, now_ns):
            at = d.catchall
        return None if at < 0 else (<const char *>set_value(d, at))[: d.data_size]


@cython.final
cdef class NftStates:
    """What the stateful expressions of a table's rules and its named objects keep, by number.

    Args:
        states: (kind, invert, a, b, c, d, last_ns) of each.
    """

    cdef NftState *x
    cdef int32_t n

    def __cinit__(self, states=()):
        cdef int32_t i
        kept = list(states)
        self.n = len(kept)
        self.x = <NftState *>calloc(self.n + 1, sizeof(NftState))
        if self.x == NULL:
            raise MemoryError
        for i, (kind, invert, a, b, c, d, last_ns) in enumerate(kept):
            self.x[i].kind = kind
            self.x[i].invert = invert
            self.x[i].a = a
            self.x[i].b = b
            self.x[i].c = c
            self.x[i].d = d
            self.x[i].last_ns = last_ns

    def __dealloc__(self):
        free(self.x)

    def __len__(self):
        return self.n

    def values(self):
        """(a, b, last_ns) of each."""
        cdef int32_t i
        return [(self.x[i].a, self.x[i].b, self.x[i].last_ns) for i in range(self.n)]
