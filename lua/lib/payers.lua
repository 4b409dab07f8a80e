--[[
payers: who pays for a call when the caller's own quota cannot.

What is asked of one of the caller's own quotas is paid whole: by it, or else by the first of its payers
(lib/policies) that can. Then the own one is counted, and its entries and its hold say who pays
(state.payer, percent-encoded). A call is sent with the payers that its client knows of: they wait aside
(lib/shares), and one takes part only when it pays.

Where nothing is short this costs a comparison; what looks for payers is in lib/paying.
]]
--- @include "lib/holds"
--- @include "lib/quotas"
--- @lazy "lib/paying"
local payers = {}

-- Find who pays where an own quota cannot. Returns nil, or the error that says what it takes to know.
-- `exceeded` returns what limits of a list of quotas refuse the call; for what was used already it is nil, and
-- `hold_id` is the hold that pays where it is open.
function payers.find(states, due_max, exceeded, hold_id)
  if not states[1].has_policies then
    return nil
  end
  for place = 1, #states do
    local own = states[place]
    local is_short = own.suffix == "" and not own.is_counted and own.asked > math.max(quotas.spendable(own), 0)
    if is_short and not own.payer and not (hold_id and holds.get(own, hold_id)) then
      local paying = load_paying()
      local refused = paying.find(states, own, due_max, exceeded)
      if refused then
        return refused
      end
    end
  end
  return nil
end

-- Add to a reply of each quota in whose place another one pays its name, and who.
function payers.tell(states, reply)
  for _, state in ipairs(states) do
    if state.payer then
      local count = #reply
      reply[count + 1], reply[count + 2] = state.name, "by:" .. state.payer
    end
  end
  return reply
end

-- Let who is told to pay for the first quota do so, if it was sent: else it has paid already. Empty: nobody was
-- told. Returns nil, or an error as above.
function payers.obey(states, paid_by, due_max)
  if paid_by == "" then
    return nil
  end
  local paying = load_paying()
  return paying.follow(states, states[1], paid_by, due_max, true)
end

-- Let who pays for an open hold take part. Returns nil, or an error as above.
function payers.follow(states, hold_id, due_max)
  for place = 1, #states do
    local own = states[place]
    local hold = own.suffix == "" and holds.get(own, hold_id)
    if hold and hold.payer and not own.payer then
      local paying = load_paying()
      local refused = paying.follow(states, own, hold.payer, due_max)
      if refused then
        return refused
      end
    end
  end
  return nil
end
