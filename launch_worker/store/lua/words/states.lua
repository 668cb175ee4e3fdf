-- The states of a run, and the arrows between them. model/states.py has the same table; a test compares them.

local FINAL = {Finished = true, Failed = true, Killed = true, Crashed = true}
local ARROWS = {
  Pending = {Running = true, Killed = true, Failed = true},
  Running = FINAL,
  Crashed = {Pending = true, Running = true, Finished = true, Failed = true, Killed = true},
  Finished = {Pending = true}, Failed = {Pending = true}, Killed = {Pending = true},
}
