--[[
shares: one call that acts on several quotas of a shard, all or nothing.

A script is told of the quotas beside its first one by a text of lines: JSON kept with their entries,
then for each quota `amount suffix name`. In another account's quota the call's id is followed by the
suffix, because two accounts below one may use the same id; in its own account's it is not ("-").

A quota gates once it was granted something or has an overdraft limit. Another account's that does not
gate and has no limits is left out, and gets no entry. One that has limits is counted: its entries carry
what the call uses and move nothing, and only its limits refuse. So is the caller's own, where another
account's of its type gates: without anybody who pays a call is not admitted.

A suffix with a `!` before it is that of a quota which may pay in place of the caller's own (lib/payers): it
waits aside and is no part of the call as yet: the first state's `payers` are those, in order, its `waiting`
by name all that was sent and takes no part.
]]
--- @include "lib/amounts"
--- @include "lib/limits"
--- @include "lib/operations"
local shares = {}

local function gates(state)
  return state.granted == "1" or state.limit ~= "0"
end

local function type_of(state)
  return string.match(state.name, "|([^|]*)$")
end

-- Say of the caller's own quotas that they are counted where another account's of their type gates.
local function count_own(states)
  local gated = {}
  for _, state in ipairs(states) do
    if not state.is_own and gates(state) then
      gated[type_of(state)] = true
    end
  end
  for _, state in ipairs(states) do
    if state.is_own and limits.alone(state) then
      state.is_counted = gated[type_of(state)]
    end
  end
end

-- Keep a quota aside: one that may have to pay, unless it takes part, or one that was left out.
local function set_aside(states, other, is_payer)
  local first = states[1]
  first.waiting, first.payers = first.waiting or {}, first.payers or {}
  for _, state in ipairs(states) do
    if state.name == other.name then
      return
    end
  end
  if not first.waiting[other.name] then
    first.waiting[other.name] = other
    first.payers[#first.payers + 1] = is_payer and other or nil
  end
end

-- Open the quotas that `others` tells of. Returns the list of all states, or nil and the error.
function shares.open(state, others, keys, open_further)
  local states, details, number = { state }, nil, 0
  state.is_own = true
  for line in string.gmatch(others, "([^\n]*)\n") do
    if not details then
      details = line
    else
      local amount, suffix, name = string.match(line, "^(%d+) (%S+) (.*)$")
      number = number + 1
      local other, refused = open_further(state, keys, number, name)
      if not other then
        return nil, refused
      end
      local is_own, payer_suffix = suffix == "-", string.match(suffix, "^!(.*)$")
      other.suffix, other.details = is_own and "" or payer_suffix or suffix, details
      if payer_suffix then
        set_aside(states, other, true)
      elseif is_own or gates(other) or other.limits ~= "" then
        other.is_own, other.is_counted = is_own, not is_own and limits.alone(other)
        other.asked = amount + 0
        states[#states + 1] = other
      elseif state.has_policies then
        set_aside(states, other, false)
      end
    end
  end
  count_own(states)
  return states
end

-- What a repeat is told: the first quota's answer, then of each further one its name and answer.
local function retell(states, reply, tail)
  for place = 2, #states do
    local state = states[place]
    local remembered = operations.recall(state, state.base .. state.suffix .. tail)
    if remembered then
      reply[#reply + 1] = state.name
      operations.retell(state, reply, remembered)
    end
  end
  for _, payer in ipairs(states[1].payers or {}) do
    local remembered = operations.recall(payer, states[1].base .. payer.suffix .. tail)
    if remembered then
      reply[#reply + 1] = payer.name
      operations.retell(payer, reply, remembered)
    end
  end
  return reply
end

-- Look whether the call is remembered. Returns nil, or the reply to a repeat or to a conflict. Quotas
-- that have this very call already, from before one of the others lost it, leave the list: the first state's
-- `done` are those, by name.
function shares.recall(states, base, tail, fingerprint)
  local first = states[1]
  for place = #states, 1, -1 do
    local state = states[place]
    state.base, state.id = base, base .. state.suffix .. tail
    local remembered = operations.recall(state, state.id)
    if remembered then
      local reply = operations.replay(state, state.id, fingerprint, remembered)
      if reply.err then
        return reply
      elseif state == first then
        return retell(states, reply, tail)
      end
      state.is_done = true
    end
  end
  for place = #states, 2, -1 do
    local state = states[place]
    if state.is_done then
      first.done = first.done or {}
      first.done[state.name] = table.remove(states, place)
    end
  end
  return nil
end

local function tell(reply, state, available)
  local count, kept = #reply, state.kept or 0
  reply[count + 1], reply[count + 2] = state.name, amounts.text(state.asked + kept)
  reply[count + 3] = amounts.text(kept + math.max(available, 0))
end

-- The refusal of a call: of each quota that may refuse its name, what is asked of it and what it could have
-- admitted; then the same of those that could not pay in its place.
function shares.denial(states, spendable)
  local reply = { "DENIED" }
  for _, state in ipairs(states) do
    if not state.is_counted and not state.is_in_shadow then
      tell(reply, state, spendable(state))
    end
  end
  for _, state in ipairs(states) do
    for _, payer in ipairs(not state.is_in_shadow and state.tried or {}) do
      tell(reply, payer, math.min(spendable(payer), payer.asked - 1))
    end
  end
  return reply
end
