#!lua flags=no-writes
--[[
read_balance: say what a quota has now, what is due included, and change nothing.

KEYS
  1 versions  hash  @epoch and the last version issued, compared
  2 quota     hash  the quota: sums, limits, grants
  3 holds     hash  read where a hold has expired
  4 changes   zset  what will begin or end

ARGV
  1 epoch        the epoch the caller knows
  2 quota_name   <account>|<quota type>
  3 now_ms       milliseconds, or "" for the server clock
  4 due_max      changes that may be applied on the way
  5 with_grants  1: list the grants too

RETURNS
  BALANCE  stored_version balance held debt limit spendable frozen head now_ms granted limited [grant_id record]...

ERRORS                          (in the order they are checked)
  FENCED            another epoch: ask the gate
  QUOTA_NOT_LOADED  not in Redis: hydrate, then retry
  CATCH_UP          more than due_max changes are due: run catch_up, then retry
]]
--- @include "lib/amounts"
--- @include "lib/entries"
--- @include "lib/grants"
--- @include "lib/quotas"

local versions_key, quota_key, holds_key, changes_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, quota_name, now_ms, due_max, with_grants = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

local keys = { versions = versions_key, quota = quota_key, holds = holds_key, changes = changes_key }
local state, refused = quotas.open(keys, epoch, quota_name, now_ms, 1)
if not state then
  return refused
end
refused = quotas.bring_up(state, due_max)
if refused then
  return refused
end

local text = amounts.text
local reply = {
  "BALANCE", state.stored[1], text(entries.balance(state)), text(state.held), text(state.debt),
  state.limit, text(quotas.spendable(state)), state.frozen, state.head, text(state.now),
  state.granted, state.limits == "" and "0" or "1",
}
if with_grants == "1" then
  local stored = redis.call("HGETALL", quota_key)
  for place = 1, #stored, 2 do
    local grant_id = string.match(stored[place], "^g:(.*)$")
    if grant_id then
      local grant = state.touched[grant_id]
      reply[#reply + 1] = grant_id
      reply[#reply + 1] = grant and grants.record(grant) or stored[place + 1]
    end
  end
end
return reply
