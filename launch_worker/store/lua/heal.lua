-- Sets aside queue keys that are not lists, so that consumers can go on.  ARGV: list…
local lists = ARGV
for _, list in ipairs(lists) do heal(list) end
return 1
