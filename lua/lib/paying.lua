--[[
paying: choose who pays in place of a quota that cannot, and let it take part in the call.
]]
--- @include "lib/operations"
--- @include "lib/policies"
--- @include "lib/quotas"
local paying = {}

local function type_of(state)
  return string.match(state.name, "|([^|]*)$")
end

-- The name of the quota that pays in place of another one.
local function name_of(payer, own)
  return policies.account_of(payer) .. "|" .. type_of(own)
end

-- The quota of that name, with its id of the call: it takes part already, or it waits or has the call already
-- (then the second value is true). Nil: not sent.
local function look_up(states, name, own)
  for _, state in ipairs(states) do
    if state.name == name then
      return state, false
    end
  end
  local payer = (states[1].waiting or {})[name] or (states[1].done or {})[name]
  if payer then
    payer.base, payer.id = own.base, own.base .. payer.suffix .. string.sub(own.id, #own.base + 1)
  end
  return payer, true
end

-- The error that names payers which the call was sent without.
local function wanted(words, own)
  local names = {}
  for place, word in ipairs(words) do
    names[place] = word .. "|" .. type_of(own)
  end
  return redis.error_reply("PAYERS_WANTED " .. table.concat(names, " "))
end

-- Whether a quota can pay all of it now; or nil and the error that says what it takes to know.
local function can_pay(states, payer, is_waiting, due_max, exceeded)
  if payer.frozen ~= "" or policies.are_barred(states, payer.name) then
    return false
  end
  local refused = is_waiting and quotas.bring_up(payer, due_max)
  if refused then
    return nil, refused
  end
  local gates = payer.granted == "1" or payer.limit ~= "0"
  if not gates or payer.asked > quotas.spendable(payer) then
    return false
  end
  refused = is_waiting and exceeded and exceeded({ payer })
  if refused and refused.err then
    return nil, refused
  end
  return not refused
end

-- Find who pays in place of an own quota that cannot. Nobody may: then the own one remembers who could not.
function paying.find(states, own, due_max, exceeded)
  local words, tried = policies.payers_of(states, own.name), {}
  for _, word in ipairs(words) do
    local payer, is_waiting = look_up(states, name_of(word, own), own)
    if not payer then
      return wanted(words, own)
    end
    local can, refused
    payer.asked = own.asked
    local is_done = is_waiting and operations.recall(payer, payer.id)
    if not is_done then
      can, refused = can_pay(states, payer, is_waiting, due_max, exceeded)
    end
    if refused then
      return refused
    elseif can or is_done then
      own.is_counted, own.payer = true, word
      states[#states + 1] = can and is_waiting and payer or nil
      return nil
    elseif is_waiting then
      tried[#tried + 1] = payer
    end
  end
  own.tried = tried
  return nil
end

-- Let who is known to pay take part: for an open hold in what becomes of it, for a call in what is settled anew.
-- With `may_have_paid` one that was not sent has paid already.
function paying.follow(states, own, word, due_max, may_have_paid)
  own.payer = word
  local payer, is_waiting = look_up(states, name_of(word, own), own)
  if not payer then
    return not may_have_paid and wanted({ word }, own) or nil
  elseif not is_waiting or operations.recall(payer, payer.id) then
    return nil
  end
  payer.asked = own.asked
  states[#states + 1] = payer
  return quotas.bring_up(payer, due_max)
end
