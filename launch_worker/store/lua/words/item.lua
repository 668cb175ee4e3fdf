-- The item of a run: the Celery message in a queue's list.

-- The name and project that were made into JSON last, for Flower: of many runs in one call most have the same.
local shown = {}
local function shown_of(name, project)
  if name ~= shown.name or project ~= shown.project then
    name, project = as_utf8(name), as_utf8(project)
    local words = "{'name': '" .. name .. "'"
    if project ~= '' then words = words .. ", 'project': '" .. project .. "'" end
    shown = {name = name, project = project, shadow = cjson.encode(name), kwargsrepr = cjson.encode(words .. '}')}
  end
  return shown
end

-- The Celery message of a run, as kombu's Redis transport stores it. tests/redis/store/test_item.py compares it
-- with what the installed Celery publishes. It carries no more of the run than Flower may show.
local function item(id, seq, queue, priority, name, project, now)
  local as_json = shown_of(name, project)
  return '{"body":"[[\\"' .. id .. '\\",' .. seq .. '],{},{\\"callbacks\\":null,\\"errbacks\\":null,'
    .. '\\"chain\\":null,\\"chord\\":null}]","content-encoding":"utf-8","content-type":"application/json",'
    .. '"headers":{"lang":"py","task":"launch_worker.run","id":"' .. id .. '",'
    .. '"shadow":' .. as_json.shadow .. ',"eta":null,"expires":null,"group":null,"group_index":null,'
    .. '"retries":0,"timelimit":[null,null],"root_id":"' .. id .. '","parent_id":null,'
    .. '"argsrepr":"(\'' .. id .. '\',)","kwargsrepr":' .. as_json.kwargsrepr .. ','
    .. '"origin":"launch","ignore_result":true,"replaced_task_nesting":0,"stamped_headers":null,'
    .. '"stamps":{},"launch_dispatched_at":' .. int(now) .. '},'
    .. '"properties":{"correlation_id":"' .. id .. '","reply_to":"","delivery_mode":2,'
    .. '"delivery_info":{"exchange":"","routing_key":"' .. queue .. '"},"priority":' .. priority .. ','
    .. '"delivery_tag":"' .. id .. '.' .. seq .. '"}}'
end

-- The time at which an item was dispatched; nil for an item of another system.
local function dispatched_at(made)
  return tonumber(string.match(made, '"launch_dispatched_at": ?(%d+)') or '')
end

-- The run that an item names, and its dispatch number; nil for an element that is no run's item.
local function named_in(item)
  return string.match(item, '"body": ?"%[%[\\"([%w]+)\\", ?(%d+)%]')
end
