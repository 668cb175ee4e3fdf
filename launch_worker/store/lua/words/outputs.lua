-- The files that attempts left: the field `outputs` of a record, JSON of an attempt's number to what is known of its outputs.
--   {"2": {"files": 3, "bytes": 1024, "at": "MICROSECONDS", "left_out": 0}}   they are in the store
--   {"2": {"sending": true}}                                                  they wait on their worker's machine

-- One table: a library may have two hundred names.
local OUTPUTS = {
  -- The number of attempts of a run of which something is known.
  MOST = 100,
}

function OUTPUTS.read(id)
  local known = decoded(get(id, 'outputs')[1])
  return type(known) == 'table' and known or {}
end

function OUTPUTS.write(id, known)
  local count, oldest = 0, nil
  for attempt in pairs(known) do
    count = count + 1
    if not oldest or (tonumber(attempt) or 0) < (tonumber(oldest) or 0) then oldest = attempt end
  end
  if count > OUTPUTS.MOST then known[oldest] = nil end
  if count == 0 then drop(id, 'outputs') else put(id, 'outputs', cjson.encode(known)) end
end

-- Notes at the end of an attempt whether outputs of it wait to be sent: `left` is '1' or '0'; '' where that is not said.
function OUTPUTS.note_left(id, attempt, left)
  if left ~= '1' and left ~= '0' then return end
  local known = OUTPUTS.read(id)
  local mine = known[attempt]
  if left == '1' and not mine then
    known[attempt] = {sending = true}
  elseif left == '0' and type(mine) == 'table' and mine.sending then
    known[attempt] = nil
  else
    return
  end
  OUTPUTS.write(id, known)
end
