"""The Triton kernels of `attention`: forward, row sums for the backward pass, dQ, and dK with dV.

Queries and keys of a document are numbered from its start; a query's position is its number plus how many
more keys than queries there are. Exponentials are powers of 2, which are one instruction.
Every sum is made by one program in a fixed order, so results do not differ from run to run. Launched by
`attention`; knows no shapes of models.
"""

import triton
import triton.language as tl


@triton.jit
def _offsets(row_stride, rows: tl.constexpr, columns: tl.constexpr):
    return tl.arange(0, rows)[:, None] * row_stride + tl.arange(0, columns)[None, :]


@triton.jit
def _inside(first, count, size: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr):
    inside = (first + tl.arange(0, rows))[:, None] < count
    return inside & (tl.arange(0, columns)[None, :] < size) if size != columns else inside


@triton.jit
def _tile(
    start, first, row_stride, count, size: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr
):
    """Rows of a head from `first` on, zero beyond `count` and beyond `size`."""
    # 64 bits for the tile, 32 within it: these offsets stay the same for all tiles.
    start += tl.cast(first, tl.int64) * row_stride
    inside = _inside(first, count, size, rows, columns)
    return tl.load(start + _offsets(row_stride, rows, columns), mask=inside, other=0.0)


@triton.jit
def _store(
    start,
    first,
    row_stride,
    count,
    values,
    size: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    start += tl.cast(first, tl.int64) * row_stride
    inside = _inside(first, count, size, rows, columns)
    values = values.to(start.dtype.element_ty)
    tl.store(start + _offsets(row_stride, rows, columns), values, mask=inside)


@triton.jit
def _document(starts, ends, document):
    start = tl.load(starts + document)
    return start.to(tl.int64), (tl.load(ends + document) - start).to(tl.int32)


@triton.jit
def _visible(positions, keys, key_count, window, windowed: tl.constexpr):
    seen = (keys <= positions) & (keys < key_count)
    return seen & (positions - keys < window) if windowed else seen


@triton.jit
def _forward_blocks(
    query,
    k_start,
    v_start,
    k_token,
    v_token,
    positions,
    key_count,
    first_key,
    last_key,
    factor,
    window,
    highest,
    total,
    out,
    masked: tl.constexpr,
    windowed: tl.constexpr,
    size: tl.constexpr,
    columns: tl.constexpr,
    key_block: tl.constexpr,
    precision: tl.constexpr,
):
    for first in range(first_key, last_key, key_block):
        keys = first + tl.arange(0, key_block)
        key = _tile(k_start, first, k_token, key_count, size, key_block, columns)
        scores = tl.dot(query, tl.trans(key), input_precision=precision)
        if masked:
            seen = _visible(positions[:, None], keys[None, :], key_count, window, windowed)
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        # A query that has seen no key yet would give the difference of two infinities.
        level = tl.where(higher == float("-inf"), 0.0, higher)
        # Scaled after the difference: before it, large scores would be rounded once more.
        shares = tl.exp2((scores - level[:, None]) * factor)
        decay = tl.exp2((highest - level) * factor)
        total = total * decay + tl.sum(shares, 1)
        value = _tile(v_start, first, v_token, key_count, size, key_block, columns)
        out = tl.dot(shares.to(value.dtype), value, out * decay[:, None], input_precision=precision)
        highest = higher
    return highest, total, out


@triton.jit
def forward_kernel(
    q,
    k,
    v,
    out,
    stats,
    q_starts,
    q_ends,
    k_starts,
    k_ends,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    out_token,
    out_head,
    tokens,
    group,
    scale,
    window,
    windowed: tl.constexpr,
    size: tl.constexpr,
    columns: tl.constexpr,
    query_block: tl.constexpr,
    key_block: tl.constexpr,
    precision: tl.constexpr,
    wide: tl.constexpr,
):
    """Outputs, highest scores and log2 of sums of one block of queries of one head of one document."""
    # The last queries see the most keys: they start first.
    first_query = (tl.num_programs(0) - 1 - tl.program_id(0)) * query_block
    head = tl.program_id(1).to(tl.int64)
    q_first, q_count = _document(q_starts, q_ends, tl.program_id(2))
    if first_query >= q_count:
        return
    k_first, k_count = _document(k_starts, k_ends, tl.program_id(2))
    more = k_count - q_count
    queries = first_query + tl.arange(0, query_block)
    positions = queries + more
    start = q + q_first * q_token + head * q_head
    query = _tile(start, first_query, q_token, q_count, size, query_block, columns)
    k_start = k + k_first * k_token + (head // group) * k_head
    v_start = v + k_first * v_token + (head // group) * v_head
    factor = scale * 1.4426950408889634
    highest = tl.full((query_block,), float("-inf"), dtype=wide)
    total = tl.zeros((query_block,), dtype=wide)
    result = tl.zeros((query_block, columns), dtype=wide)
    last_key = tl.minimum(first_query + query_block + more, k_count)
    # Keys that all queries of the block see need no mask.
    free = tl.maximum(first_query + more + 1, 0) // key_block * key_block
    begin = 0
    if windowed:
        begin = tl.maximum(first_query + more + 1 - window, 0) // key_block * key_block
        free = begin
    else:
        highest, total, result = _forward_blocks(
            query, k_start, v_start, k_token, v_token, positions, k_count, begin, free, factor,
            window, highest, total, result, False, windowed, size, columns, key_block, precision,
        )  # fmt: skip
    highest, total, result = _forward_blocks(
        query, k_start, v_start, k_token, v_token, positions, k_count, free, last_key, factor,
        window, highest, total, result, True, windowed, size, columns, key_block, precision,
    )  # fmt: skip
    # A query without any key gives 0; its infinite sum makes its shares 0 in the backward pass.
    empty = total == 0.0
    result = result / tl.where(empty, 1.0, total)[:, None]
    sums = tl.where(empty, float("inf"), tl.log2(tl.where(empty, 1.0, total)))
    start = out + q_first * out_token + head * out_head
    _store(start, first_query, out_token, q_count, result, size, query_block, columns)
    row = stats + 2 * (head * tokens + q_first + queries)
    tl.store(row, tl.where(empty, 0.0, highest), mask=queries < q_count)
    tl.store(row + 1, sums, mask=queries < q_count)


@triton.jit
def products_kernel(
    out,
    d_out,
    products,
    out_token,
    out_head,
    d_out_token,
    d_out_head,
    tokens,
    size: tl.constexpr,
    columns: tl.constexpr,
    query_block: tl.constexpr,
    wide: tl.constexpr,
):
    """The product of each output with its gradient, summed over the head: `(heads, tokens)`."""
    first = tl.program_id(0) * query_block
    rows = first + tl.arange(0, query_block)
    head = tl.program_id(1).to(tl.int64)
    left = _tile(out + head * out_head, first, out_token, tokens, size, query_block, columns)
    right = _tile(d_out + head * d_out_head, first, d_out_token, tokens, size, query_block, columns)
    sums = tl.sum(left.to(wide) * right.to(wide), 1)
    tl.store(products + head * tokens + rows, sums, mask=rows < tokens)


@triton.jit
def _query_gradient_blocks(
    query,
    upstream,
    highest,
    sums,
    product,
    k_start,
    v_start,
    k_token,
    v_token,
    positions,
    key_count,
    first_key,
    last_key,
    factor,
    window,
    dq,
    masked: tl.constexpr,
    windowed: tl.constexpr,
    size: tl.constexpr,
    columns: tl.constexpr,
    key_block: tl.constexpr,
    precision: tl.constexpr,
):
    for first in range(first_key, last_key, key_block):
        keys = first + tl.arange(0, key_block)
        key = _tile(k_start, first, k_token, key_count, size, key_block, columns)
        value = _tile(v_start, first, v_token, key_count, size, key_block, columns)
        scores = tl.dot(query, tl.trans(key), input_precision=precision)
        shares = tl.exp2((scores - highest[:, None]) * factor - sums[:, None])
        if masked:
            seen = _visible(positions[:, None], keys[None, :], key_count, window, windowed)
            shares = tl.where(seen, shares, 0.0)
        slopes = tl.dot(upstream, tl.trans(value), input_precision=precision) - product[:, None]
        dq = tl.dot((shares * slopes).to(key.dtype), key, dq, input_precision=precision)
    return dq


@triton.jit
def query_gradient_kernel(
    q,
    k,
    v,
    d_out,
    stats,
    products,
    dq,
    q_starts,
    q_ends,
    k_starts,
    k_ends,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    d_out_token,
    d_out_head,
    dq_token,
    dq_head,
    tokens,
    group,
    scale,
    window,
    windowed: tl.constexpr,
    size: tl.constexpr,
    columns: tl.constexpr,
    query_block: tl.constexpr,
    key_block: tl.constexpr,
    precision: tl.constexpr,
    wide: tl.constexpr,
):
    """Gradient of one block of queries of one head of one document; the loops of the forward pass."""
    first_query = (tl.num_programs(0) - 1 - tl.program_id(0)) * query_block
    head = tl.program_id(1).to(tl.int64)
    q_first, q_count = _document(q_starts, q_ends, tl.program_id(2))
    if first_query >= q_count:
        return
    k_first, k_count = _document(k_starts, k_ends, tl.program_id(2))
    more = k_count - q_count
    queries = first_query + tl.arange(0, query_block)
    positions = queries + more
    inside = queries < q_count
    start = q + q_first * q_token + head * q_head
    query = _tile(start, first_query, q_token, q_count, size, query_block, columns)
    start = d_out + q_first * d_out_token + head * d_out_head
    upstream = _tile(start, first_query, d_out_token, q_count, size, query_block, columns)
    row = head * tokens + q_first + queries
    highest = tl.load(stats + 2 * row, mask=inside, other=0.0)
    sums = tl.load(stats + 2 * row + 1, mask=inside, other=float("inf"))
    product = tl.load(products + row, mask=inside, other=0.0)
    k_start = k + k_first * k_token + (head // group) * k_head
    v_start = v + k_first * v_token + (head // group) * v_head
    factor = scale * 1.4426950408889634
    gradient = tl.zeros((query_block, columns), dtype=wide)
    last_key = tl.minimum(first_query + query_block + more, k_count)
    free = tl.maximum(first_query + more + 1, 0) // key_block * key_block
    if windowed:
        free = tl.maximum(first_query + more + 1 - window, 0) // key_block * key_block
    else:
        gradient = _query_gradient_blocks(
            query, upstream, highest, sums, product, k_start, v_start, k_token, v_token, positions, k_count,
            0, free, factor, window, gradient, False, windowed, size, columns, key_block, precision,
        )  # fmt: skip
    gradient = _query_gradient_blocks(
        query, upstream, highest, sums, product, k_start, v_start, k_token, v_token, positions, k_count,
        free, last_key, factor, window, gradient, True, windowed, size, columns, key_block,
        precision,
    )  # fmt: skip
    start = dq + q_first * dq_token + head * dq_head
    _store(start, first_query, dq_token, q_count, gradient * scale, size, query_block, columns)


@triton.jit
def _key_gradient_block(
    key,
    value,
    q_start,
    d_out_start,
    stats_start,
    product_start,
    q_token,
    d_out_token,
    keys,
    first,
    key_count,
    query_count,
    factor,
    window,
    dk,
    dv,
    windowed: tl.constexpr,
    size: tl.constexpr,
    columns: tl.constexpr,
    query_block: tl.constexpr,
    precision: tl.constexpr,
):
    queries = first + tl.arange(0, query_block)
    inside = queries < query_count
    query = _tile(q_start, first, q_token, query_count, size, query_block, columns)
    upstream = _tile(d_out_start, first, d_out_token, query_count, size, query_block, columns)
    # Beyond the document's end the sum is infinite, and shares are 0.
    highest = tl.load(stats_start + 2 * queries, mask=inside, other=0.0)
    sums = tl.load(stats_start + 2 * queries + 1, mask=inside, other=float("inf"))
    product = tl.load(product_start + queries, mask=inside, other=0.0)
    scores = tl.dot(key, tl.trans(query), input_precision=precision)
    positions = queries + (key_count - query_count)
    seen = _visible(positions[None, :], keys[:, None], key_count, window, windowed)
    shares = tl.where(seen, tl.exp2((scores - highest[None, :]) * factor - sums[None, :]), 0.0)
    dv = tl.dot(shares.to(upstream.dtype), upstream, dv, input_precision=precision)
    slopes = tl.dot(value, tl.trans(upstream), input_precision=precision) - product[None, :]
    dk = tl.dot((shares * slopes).to(query.dtype), query, dk, input_precision=precision)
    return dk, dv


@triton.jit
def key_gradient_kernel(
    q,
    k,
    v,
    d_out,
    stats,
    products,
    dk,
    dv,
    q_starts,
    q_ends,
    k_starts,
    k_ends,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    d_out_token,
    d_out_head,
    dk_token,
    dk_head,
    dv_token,
    dv_head,
    tokens,
    group,
    scale,
    window,
    windowed: tl.constexpr,
    size: tl.constexpr,
    columns: tl.constexpr,
    query_block: tl.constexpr,
    key_block: tl.constexpr,
    precision: tl.constexpr,
    wide: tl.constexpr,
):
    """Gradients of one block of keys and values of one head, over all query heads of its group."""
    first_key = tl.program_id(0) * key_block
    head = tl.program_id(1).to(tl.int64)
    k_first, k_count = _document(k_starts, k_ends, tl.program_id(2))
    if first_key >= k_count:
        return
    q_first, q_count = _document(q_starts, q_ends, tl.program_id(2))
    more = k_count - q_count
    keys = first_key + tl.arange(0, key_block)
    start = k + k_first * k_token + head * k_head
    key = _tile(start, first_key, k_token, k_count, size, key_block, columns)
    start = v + k_first * v_token + head * v_head
    value = _tile(start, first_key, v_token, k_count, size, key_block, columns)
    factor = scale * 1.4426950408889634
    key_sum = tl.zeros((key_block, columns), dtype=wide)
    value_sum = tl.zeros((key_block, columns), dtype=wide)
    first_query = tl.maximum(first_key - more, 0) // query_block * query_block
    # Later queries see no key of the block any more.
    last_query = q_count
    if windowed:
        last_query = tl.minimum(q_count, tl.maximum(first_key + key_block - 1 + window - more, 0))
    for member in range(group):
        query_head = head * group + member
        q_start = q + q_first * q_token + query_head * q_head
        d_out_start = d_out + q_first * d_out_token + query_head * d_out_head
        stats_start = stats + 2 * (query_head * tokens + q_first)
        product_start = products + query_head * tokens + q_first
        # All blocks are masked: a second loop for those that need no mask would spill registers.
        for first in range(first_query, last_query, query_block):
            key_sum, value_sum = _key_gradient_block(
                key, value, q_start, d_out_start, stats_start, product_start, q_token, d_out_token,
                keys, first, k_count, q_count, factor, window, key_sum, value_sum, windowed, size,
                columns, query_block, precision,
            )  # fmt: skip
    start = dk + k_first * dk_token + head * dk_head
    _store(start, first_key, dk_token, k_count, key_sum * scale, size, key_block, columns)
    start = dv + k_first * dv_token + head * dv_head
    _store(start, first_key, dv_token, k_count, value_sum, size, key_block, columns)
