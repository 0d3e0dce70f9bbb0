-- Close at most so many holds whose life is over, and say how many: of each all but `kept` goes back. None is closed
-- where nobody has renewed holds for a while, or somebody has only just begun to again: it may be that of a call that
-- runs.
local function sweep(most)
  local over = call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, most)
  local renewed, calm = unpack(call('HMGET', SUMS, 'renewed', 'calm'))
  if not over[1] or (renewed and (now - renewed > QUIET or (calm and now < tonumber(calm)))) then return 0 end
  local publish, staying, kept_of, move = endings()

  -- What obituary() of counters.py says. Numbers are written here, as cjson rounds long ones.
  local function obituary(name, record, note, stay)
    local kept, known, parts = {}, {}, {}
    for i = 2, #record, 5 do
      local key = record[i]
      if not kept[key] then known[#known + 1] = key end
      kept[key] = (kept[key] or 0) + stay[i]
    end
    for i, key in ipairs(known) do parts[i] = cjson.encode(key) .. string.format(':%.0f', kept[key]) end
    local noted = note and note ~= '' and ',"note":' .. cjson.encode(note) or ''
    return '{"id":' .. cjson.encode(name) .. ',"expired":true,"kept":{' .. table.concat(parts, ',') .. '}' .. noted .. '}'
  end

  for _, name in ipairs(over) do
    local found = call('HGET', SUMS, 'h' .. name)
    if found then
      local record, note = unpacked(found)
      local stay = staying(record, kept_of(record))
      move(record, nil, stay, -1)
      publish(obituary(name, record, note, stay))
      record[1] = now
      call('HSET', SUMS, 'h' .. name, packed(record, note))
      forget_at(now + DAY, 'h' .. name)
    end
    call('ZREM', ENDS, name)
  end
  return #over
end
