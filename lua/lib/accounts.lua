--[[
accounts: what is said of the accounts of a call, for who asks it.

A shard in which nothing is said of any account pays for the mark `@accounts`, and for nothing else: what
reads and decides is in lib/policies.

A quota in the shadow refuses nothing. Where it would have, state.shadowed says why: insufficient, or limited;
its entry has the flag `shadow` and that word. What it lets through beyond what is spendable is uncovered, or
of a debit shortfall.
]]
--- @lazy "lib/policies"
local accounts = {}

-- The reply that says that an account of the call, or one above it, is not active; with `only_closed`, that
-- one is closed. Nil: none is. Whatever the call acts on, the path of its own account counts.
function accounts.barred(states, only_closed)
  if not states[1].has_policies then
    return nil
  end
  local policies = load_policies()
  return policies.barred(states, only_closed)
end

-- Mark the states of quotas in the shadow. `unenforced`: quota types that are unless an account says otherwise.
function accounts.mark(states, unenforced)
  if states[1].has_policies or unenforced ~= "" then
    local policies = load_policies()
    policies.mark(states, unenforced)
  end
end

-- The flags of the entry by which a quota lets something through.
function accounts.flags(state)
  local counted, shadowed = state.is_counted and "counted" or "", state.shadowed
  if state.payer then
    counted = "counted by:" .. state.payer
  end
  if not shadowed then
    return counted
  end
  return (counted == "" and "" or "counted ") .. "shadow " .. shadowed
end

-- Add to a reply of each quota that would have refused its name, and why.
function accounts.tell(states, reply)
  for _, state in ipairs(states) do
    if state.shadowed then
      local count = #reply
      reply[count + 1], reply[count + 2] = state.name, state.shadowed
    end
  end
  return reply
end
