-- Notes what became of the processes of an attempt that had called itself finished before.  ARGV: id, token, what
-- Refuses another attempt.  Returns 1 or 0.
local id, token, what = unpack(ARGV)
if get(id, 'token')[1] ~= token then return 0 end
put(id, 'late_exit', what)
return 1
