-- What ends a hold, or opens it again: publish, staying, kept_of, move.
local function endings()
  -- Put an event on the usage bus. The stream is made by the first alone: only then it lacks its time to live.
  local function publish(event)
    keep(now)
    if not call('XADD', USAGE, 'NOMKSTREAM', 'MAXLEN', '~', EVENTS, '*', 'event', event) then
      call('XADD', USAGE, '*', 'event', event)
      call('PEXPIRE', USAGE, lives_to - now)
    end
  end

  -- How many units of each row stay when so many are used of each key: the first taken are the first used, and what is
  -- more than was held counts at the last place. Of open holds none stay. Takes from `used`.
  local function staying(record, used)
    local stay, last = {nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}, {}
    for i = 2, #record, 5 do last[record[i]] = i end
    for i = 2, #record, 5 do
      local key = record[i]
      local rest = used[key] or 0
      if kind(record[i + 2]) == OPEN then rest = 0 end
      local stays = i == last[key] and rest or min(rest, record[i + 4])
      stay[i], used[key] = stays, rest - stays
    end
    return stay
  end

  -- How many units stay of each key of a hold that nobody settles.
  local function kept_of(record)
    local held, kept = {}, {}
    for i = 2, #record, 5 do
      local key = record[i]
      held[key] = (held[key] or 0) + record[i + 4]
      kept[key] = min(record[i + 1], held[key])
    end
    return kept
  end

  -- Book the differences between what lies at the places of a hold and what is to lie there, of each all of its units
  -- where nothing is said. `held`: -1 where they are held no more, 1 where they are held again.
  local function move(record, before, after, held)
    read(record, 4, #record, 5, true)
    for i = 2, #record, 5 do
      local units = record[i + 4]
      local more = (after and after[i] or units) - (before and before[i] or units)
      add(record[i + 2], record[i + 3], more, held * units)
    end
  end

  return publish, staying, kept_of, move
end
