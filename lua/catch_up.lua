#!lua flags=allow-oom
--[[
catch_up: apply what is due: grants start, grants and holds expire.

At most due_max changes a call, in the order of their instants; call again while more is due. A quota
with nothing due only has its next_change_at set right.

KEYS
  1 versions  hash    @epoch and the last version issued, compared; gains this version
  2 outbox    stream  gains one event per entry
  3 due       zset    quotas by next_change_at
  4 quota     hash    the quota: sums, limits, grants
  5 holds     hash    its open holds
  6 changes   zset    what will begin or end
  7 ops0      hash    remembered operations, even periods
  8 ops1      hash    remembered operations, odd periods

ARGV
   1 epoch       the epoch the caller knows
   2 quota_name  <account>|<quota type>
   3 now_ms      milliseconds, or "" for the server clock
   4 horizon_ms  milliseconds an operation is remembered
   5 due_max     changes that may be applied on the way

RETURNS
  CAUGHT_UP  entries written, more (1: call again), next_change_at

ERRORS                          (in the order they are checked)
  FENCED            another epoch, or the outbox is gone: ask the gate
  QUOTA_NOT_LOADED  not in Redis: hydrate, then retry
]]
--- @include "lib/amounts"
--- @include "lib/quotas"

local versions_key, outbox_key, due_key, quota_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_key, changes_key, ops0_key, ops1_key = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local epoch, quota_name, now_ms = ARGV[1], ARGV[2], ARGV[3]
local horizon_ms, due_max = tonumber(ARGV[4]), tonumber(ARGV[5])

local keys = {
  versions = versions_key, outbox = outbox_key, due = due_key, quota = quota_key,
  holds = holds_key, changes = changes_key, ops0 = ops0_key, ops1 = ops1_key,
}
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, horizon_ms)
if not state then
  return refused
end
redis.call("HLEN", ops0_key) -- written below, and read nowhere else: a key of another type fails here
redis.call("HLEN", ops1_key)
local more = quotas.bring_up(state, due_max, true) and "1" or "0"
if redis.call("EXISTS", outbox_key) == 0 then
  return redis.error_reply("FENCED the outbox is gone")
end
local applied = amounts.text(#state.entries / 2)

-- Point of no return: the outbox may still refuse, but nothing is written before it accepts.
return quotas.commit(state) or { "CAUGHT_UP", applied, more, amounts.text(state.next_change_at) }
