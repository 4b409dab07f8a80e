#!lua flags=no-writes
--[[
read_accounts: say what is known of an account and of those above it.

For calls on a quota that nobody knows, which no other script decides.

KEYS
  1 versions  hash  @epoch, compared; records

ARGV
  1 epoch       the epoch the caller knows
  2 quota_name  <account>|<quota type>
  3 unenforced  quota types that refuse nothing unless an account says so, a space before and after each

RETURNS
  OPEN    all of them are active
  SHADOW  the same, and the quota refuses nothing
  PAYERS  the same, and other accounts pay when it cannot
  BARRED  account state since reason, of one that is not

ERRORS                          (in the order they are checked)
  FENCED  another epoch: ask the gate
]]
--- @include "lib/policies"

local versions_key = KEYS[1]
local epoch, quota_name, unenforced = ARGV[1], ARGV[2], ARGV[3]

local known = redis.call("HGET", versions_key, "@epoch")
if known ~= epoch then
  return redis.error_reply("FENCED epoch is " .. (known or "absent"))
end
local state = { name = quota_name, keys = { versions = versions_key } }
policies.mark({ state }, unenforced)
local refused = policies.barred({ state })
if refused then
  return refused
elseif state.is_in_shadow then
  return { "SHADOW" }
elseif #policies.payers_of({ state }, quota_name) > 0 then
  return { "PAYERS" }
end
return { "OPEN" }
