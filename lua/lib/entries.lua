--[[
entries: write down what happened to a quota, one numbered and chained line per change.

An entry is first kept in memory (state.entries), with the state as it is at that moment; the
script's commit appends all of them to the outbox. Lines and chain: see quota_engine/events.py.
]]
--- @include "lib/amounts"
local entries = {}

function entries.balance(state)
  return state.remaining + state.covered - state.debt
end

-- Note that the entry being made changes a grant; several notes on one grant become one triple.
function entries.move(state, grant_id, remaining, reserved)
  local moves = state.moves
  if not moves then
    state.moves = { grant_id, remaining, reserved }
    return
  end
  local places = state.places
  if not places then
    places = { [moves[1]] = 1 }
    state.places = places
  end
  local place = places[grant_id]
  if place then
    moves[place + 1] = moves[place + 1] + remaining
    moves[place + 2] = moves[place + 2] + reserved
    return
  end
  local count = #moves
  places[grant_id] = count + 1
  moves[count + 1], moves[count + 2], moves[count + 3] = grant_id, remaining, reserved
end

-- Number, chain and keep one entry. Returns its answer: what a repeated operation is told.
function entries.add(state, kind, event)
  local text, moves = amounts.text, state.moves or {}
  for place = 1, #moves, 3 do
    moves[place + 1], moves[place + 2] = text(moves[place + 1]), text(moves[place + 2])
  end
  local moved = table.concat(moves, " ")
  local balance = entries.balance(state)
  state.version = state.version + 1
  local version, amount, shortfall = text(state.version), text(event.amount), text(event.shortfall or 0)
  local balance_text, held, debt = text(balance), text(state.held), text(state.debt)
  local fingerprint, flags, terms = event.fingerprint or "", event.flags or "", event.terms or ""
  local line = "1\n" .. kind .. "\n" .. state.name .. "\n" .. version .. "\n" .. text(event.at) .. "\n"
    .. event.operation_id .. "\n" .. fingerprint .. "\n" .. amount .. "\n"
    .. text(balance - state.logged_balance) .. "\n" .. text(state.held - state.logged_held) .. "\n"
    .. balance_text .. "\n" .. held .. "\n" .. debt .. "\n" .. shortfall .. "\n" .. (event.subject or "") .. "\n"
    .. flags .. "\n" .. terms .. "\n" .. moved .. "\n" .. (event.details or "")
  state.chain = redis.sha1hex(state.chain .. "\n" .. line)
  state.logged_balance, state.logged_held, state.moves, state.places = balance, state.held, nil, nil
  local count = #state.entries
  state.entries[count + 1], state.entries[count + 2] = line, state.chain
  return { fingerprint, version, amount, shortfall, balance_text, held, debt, flags, terms, moved }
end
