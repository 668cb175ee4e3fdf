-- Tells which beat passes are due, and notes that these begin now: two beats, or beat and agents, do each of them once.
-- ARGV: settle_ms, then for each pass: name, every_us, gap_us (0: not guarded).  Returns 1 or 0 for each pass.
-- A guarded pass that did not run for `gap_us`, or whose last time lies in the future, means that Redis was away or
-- that its clock jumped: every lease looks dead then. Workers get `settle_ms` to renew their leases first.
local settle_ms = ARGV[1]
local FIRST_PASS = 2
local now = now_us()
local answers, begun = {}, {}
for at = FIRST_PASS, #ARGV, 3 do
  local name, every_us, gap_us = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local last = tonumber(redis.call('HGET', 'launch:passes', name) or '0')
  local is_due = last > now or now - last >= every_us
  if is_due then
    begun[#begun + 1] = name
    begun[#begun + 1] = int(now)
    if gap_us > 0 then
      if last > now or now - last > gap_us then redis.call('SET', 'launch:settling', 1, 'PX', settle_ms) end
      is_due = redis.call('EXISTS', 'launch:settling') == 0
    end
  end
  answers[#answers + 1] = is_due and 1 or 0
end
if #begun > 0 then redis.call('HSET', 'launch:passes', unpack(begun)) end
return answers
