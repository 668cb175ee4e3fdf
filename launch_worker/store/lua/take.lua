-- Pops by hand the next item of a worker's lists, for one that lets no broker do it.  ARGV: before_us, list…
-- An item that was dispatched later, and a foreign one, stays, and all behind it.  Returns {id, seq} or {}.
local before = tonumber(ARGV[1])
for at = 2, #ARGV do
  heal(ARGV[at])
  while true do
    local oldest = redis.call('LINDEX', ARGV[at], -1)
    local dispatched = oldest and tonumber(string.match(oldest, '"launch_dispatched_at": ?(%d+)') or '')
    local id, seq = string.match(oldest or '', '"body": ?"%[%[\\"([%w]+)\\", ?(%d+)%]')
    if not dispatched or not id or dispatched > before then break end
    redis.call('RPOP', ARGV[at])
    -- One that is outdated is thrown away here.
    if get(id, 'seq')[1] == seq then return {id, seq} end
  end
end
return {}
