-- For holds that may be there already.

-- Let each draw be what it lacks of what the hold shall have.
local function lack(record)
  local held = {}
  for i = 2, #record, 5 do held[record[i]] = (held[record[i]] or 0) + record[i + 4] end
  for at = 1, LAST, WIDTH do draws[at + UNITS] = max(0, draws[at + UNITS] - (held[draws[at + KEY]] or 0)) end
end

-- Put the units of the draw that begins there into a record that has rows, at the place of now.
function book(record, at)
  local key, kept, field, edge = draws[at + KEY], draws[at + KEPT], draws[at + FIELD], draws[at + EDGE]
  local units, known, same = draws[at + UNITS], false, nil
  for i = 2, #record, 5 do
    if record[i] == key then
      known, record[i + 1] = true, kept
      if record[i + 2] == field and record[i + 3] == edge then same = i end
    end
  end
  if same then
    record[same + 4] = record[same + 4] + units
  elseif units > 0 or not known then
    local row = #record
    record[row + 1], record[row + 2], record[row + 3], record[row + 4], record[row + 5] = key, kept, field, edge, units
  end
end
