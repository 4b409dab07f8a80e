#!lua flags=no-writes
--[[
read_limits: say how much the limits of a quota let through now, what is due included, and change nothing.

KEYS
  1 versions  hash  @epoch and the last version issued, compared
  2 quota     hash  the quota: sums, limits, grants
  3 holds     hash  its open holds
  4 changes   zset  what will begin or end

ARGV
  1 epoch       the epoch the caller knows
  2 quota_name  <account>|<quota type>
  3 now_ms      milliseconds, or "" for the server clock
  4 due_max     changes that may be applied on the way
  5 asked       units of a call: when would a limit that is in its way let it through; empty: nothing is asked

RETURNS
  LIMITS  now_ms [limit cap used resets_at passes_at]...; when a calendar period ends, and the call would pass

ERRORS                          (in the order they are checked)
  FENCED            another epoch: ask the gate
  QUOTA_NOT_LOADED  not in Redis: hydrate, then retry
  CATCH_UP          more than due_max changes are due: run catch_up, then retry
]]
--- @include "lib/amounts"
--- @include "lib/limits"
--- @include "lib/quotas"

local versions_key, quota_key, holds_key, changes_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, quota_name, now_ms, due_max, asked = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local keys = { versions = versions_key, quota = quota_key, holds = holds_key, changes = changes_key }
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, 1)
if not state then
  return refused
end
refused = quotas.bring_up(state, due_max)
if refused then
  return refused
end

local text, reply = amounts.text, { "LIMITS", amounts.text(state.now) }
local counts = limits.of(state)
if not counts then
  return reply
end
for _, limit in ipairs(counts.read(state).limits) do
  local cap, used, resets_at = counts.standing(state, limit)
  local passes_at = asked and counts.passes_at(state, limit, limit.of == "units" and asked or 1)
  local count = #reply
  reply[count + 1], reply[count + 2], reply[count + 3] = counts.text(limit), text(cap), text(used)
  reply[count + 4] = resets_at and text(resets_at) or ""
  reply[count + 5] = passes_at and text(passes_at) or ""
end
return reply
