-- ARGV: now or '', hold. A reserve of which nobody knows whether it was taken: as if it had never been.
read({}, 1, 0, 1)
local record = own_packed and unpacked(own_packed)
if not record or record[1] ~= 0 then return 0 end
local _, staying, _, move = endings()
move(record, nil, staying(record, {}), -1)
call('HDEL', SUMS, own)
call('ZREM', ENDS, hold)
store()
return 1
