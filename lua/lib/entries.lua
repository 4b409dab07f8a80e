--[[
entries: write down what happened to a quota, one numbered and chained line per change.

An entry is first kept in memory (state.entries), with the state as it is at that moment; the
script's commit appends all of them to the outbox. Lines and chain: see quota_engine/events.py.
]]
--- @include "lib/amounts"
local entries = {}

local FORMAT = "1"

function entries.balance(state)
  return state.remaining + state.covered - state.debt
end

-- Note that the entry being made changes a grant; several notes on one grant become one triple.
function entries.move(state, grant_id, remaining, reserved)
  local move = state.moves[grant_id]
  if not move then
    move = { remaining = 0, reserved = 0 }
    state.moves[grant_id] = move
    state.move_order[#state.move_order + 1] = grant_id
  end
  move.remaining = move.remaining + remaining
  move.reserved = move.reserved + reserved
end

local function movements(state)
  local words = {}
  for _, grant_id in ipairs(state.move_order) do
    local move = state.moves[grant_id]
    words[#words + 1] = grant_id
    words[#words + 1] = amounts.text(move.remaining)
    words[#words + 1] = amounts.text(move.reserved)
  end
  return table.concat(words, " ")
end

-- Number, chain and keep one entry. Returns its answer: what a repeated operation is told.
function entries.add(state, event)
  local balance = entries.balance(state)
  local text = amounts.text
  local version = text(state.version + 1)
  local amount, shortfall = text(event.amount), text(event.shortfall or 0)
  local balance_text, held, debt = text(balance), text(state.held), text(state.debt)
  local flags, terms, moved = event.flags or "", event.terms or "", movements(state)
  local line = table.concat({
    FORMAT, event.kind, state.name, version, text(event.at), event.operation_id,
    event.fingerprint or "", amount, text(balance - state.logged_balance),
    text(state.held - state.logged_held), balance_text, held, debt, shortfall,
    event.subject or "", flags, terms, moved, event.details or "",
  }, "\n")
  state.version = state.version + 1
  state.chain = redis.sha1hex(state.chain .. "\n" .. line)
  state.logged_balance, state.logged_held = balance, state.held
  state.moves, state.move_order = {}, {}
  state.entries[#state.entries + 1] = { line = line, chain = state.chain }
  return { event.fingerprint or "", version, amount, shortfall, balance_text, held, debt, flags, terms, moved }
end
