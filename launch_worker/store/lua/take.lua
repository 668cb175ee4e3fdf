-- Pops the next item of a worker's lists, for a worker that takes runs without a broker.  ARGV: before_us, list…
-- An item whose run was not ready by before_us, and an item of another system, stay, with all items behind them.
-- Returns {id, seq}, {} for none, or {''} after many outdated items: call again.
local before_us = tonumber(ARGV[1])
local FIRST_LIST = 2
local thrown = 0
for at = FIRST_LIST, #ARGV do
  heal(ARGV[at])
  while true do
    local oldest = redis.call('LINDEX', ARGV[at], -1)
    local id, seq = named_in(oldest or '')
    if not id then break end
    local run = get(id, 'seq', 'lined_at', 'due_at')
    local ready = tonumber(run[2] or '') or tonumber(run[3] or '')
    if run[1] == seq and ready and ready > before_us then break end
    redis.call('RPOP', ARGV[at])
    -- An outdated item is dropped here.
    if run[1] == seq then return {id, seq} end
    thrown = thrown + 1
    if thrown >= 1000 then return {''} end
  end
end
return {}
